"""Settings of a run: a YAML file and command-line options go in, one checked, frozen `MapConfig` comes out.

`stages` reads them, and what `coseis train` takes (`learn.config`) by the same rules. A model a stage; each
field's description is also the help of its command-line option. Credentials are no settings: they come from
the environment and appear nowhere else.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from coseis.addresses import public_form
from coseis.stages import Setting, check_stage, check_stages, read_stages, settings_of
from coseis.types import MASKABLE, MASKED, MIN_INTENSITY, Value


def as_tuple(value: object) -> object:
    """`a,b` and `a` to a tuple: what people write in YAML and on a command line."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _as_text(value: object) -> object:
    """A box written as a list of four to the text that the command line takes."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _is_scheduler(address: str) -> str:
    """Refuses what is no scheme://host:port: Dask would wait for ever for an empty host."""
    try:
        parts = urlsplit(address)
        complete = parts.scheme in ("tcp", "tls") and bool(parts.hostname) and bool(parts.port)
        # It is stored with the run and shown.
        complete = complete and "@" not in parts.netloc and not (parts.query or parts.fragment)
    except ValueError:  # the port is no number, or too large
        complete = False
    if not complete and address not in ("local", "local-cuda"):
        raise ValueError("local, local-cuda, tcp://HOST:PORT or tls://HOST:PORT")
    return address


def _as_word(value: object) -> object:
    """YAML reads yes and no as true and false."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _is_part(share: str) -> str:
    number, _, count = share.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError("I/N with I from 0 to N-1")
    return share


def _are_maskable(names: tuple[str, ...]) -> tuple[str, ...]:
    """In the order of MASKABLE, each once, so that equal masks are equal values."""
    if names == ("none",):
        return ()
    if unknown := [name for name in names if name not in MASKABLE]:
        raise ValueError(f"{', '.join(MASKABLE)}, or none; {', '.join(unknown)} is not known")
    return tuple(name for name in MASKABLE if name in names)


def _or_none(value: object) -> object:
    """The word by which a run that had a file is drawn without it."""
    return None if value == "none" else value


Words = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Masked = Annotated[tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_are_maskable)]
Area = Annotated[str, BeforeValidator(_as_text)]
Layer = Annotated[str | None, BeforeValidator(_or_none)]
Scheduler = Annotated[str, AfterValidator(_is_scheduler)]
Permission = Annotated[Literal["auto", "yes", "no"], BeforeValidator(_as_word)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
FILE_ONLY = "file only"
"""Marks a setting that has no option of its own: one is only wanted where a file lists several."""


class SearchConfig(Value):
    """Which scenes are used."""

    catalog: str = Field(
        description="STAC API, static catalog, item collection or stac-geoparquet file: address or path."
    )
    event: str | None = Field(
        None,
        description="USGS file of the event: its GeoJSON, or its ShakeMap's grid.xml or contours. Gives the "
        "time and, of a ShakeMap, the area.",
    )
    aoi: Area | None = Field(
        None,
        validate_default=True,
        description="File of polygons (any CRS), or west,south,east,north in degrees; needed unless --event "
        "is a ShakeMap.",
    )
    event_time: str | None = Field(
        None,
        validate_default=True,
        description="ISO time with its zone, e.g. 2018-09-05T18:08:00Z; needed without --event.",
    )
    min_intensity: Annotated[float, Field(ge=1, le=10)] = Field(
        MIN_INTENSITY, description="Modified Mercalli intensity that bounds the area of a ShakeMap."
    )
    collection: Words = Field((), description="Collections to search; all if not given.")
    pre: str | None = Field(None, description="Dates of scenes before, START/END; a year if not given.")
    post: str | None = Field(None, description="Dates of scenes after, START/END; 180 days if not given.")
    max_cloud: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Most cloud cover of a scene, percent."
    )
    max_snow: Annotated[float, Field(ge=0, le=100)] = Field(
        10.0, description="Most snow of a scene before the event, percent: stated, or more than after it."
    )
    quality: Words = Field(("standard",), description="Values of pl:quality_category to accept.")
    include: Words = Field((), description="Item ids to use in spite of filters or a straddling interval.")
    exclude: Words = Field((), description="Item ids never to use.")
    mask: Masked = Field(
        MASKED,
        description=f"Classes of usable data masks that are not used: {', '.join(MASKABLE)}; or none.",
    )
    allow_missing_pre: bool = Field(False, description="Go on with scenes after the event only.")
    allow_host: Words = Field((), description="Hosts beside the catalog's own that assets may lie on.")
    allow_root: Words = Field((), description="Folders beside a local catalog's own that assets may lie in.")

    @field_validator("aoi", "event_time")
    @classmethod
    def _needed_without_event(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("event") is None:
            raise PydanticKnownError("missing")
        return value


class ModelConfig(Value):
    """Which network, and how exactly it computes."""

    model: str | None = Field(
        None, description="Folder or ZIP file of a model; the shipped one if not given."
    )
    force_resolution: bool = Field(
        False, description="Run a model outside its range of pixel sizes; recorded in run.json."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What the network computes in; auto: bfloat16 where the hardware has it."
    )
    core: int | None = Field(None, description="Core of a window, px, a multiple of 16; chosen if not given.")
    batch: Annotated[int, Field(ge=1)] = Field(1, description="Windows a call of the network.")


class OutputConfig(Value):
    """What is written, and where."""

    out: str = Field(description="Where the run is written: folder, s3://, gs:// or az://.")
    resolution: Annotated[Finite, Field(gt=0)] | None = Field(
        None, description="Pixel size, m; that of the scenes after the event if not given."
    )
    crs: str | None = Field(
        None, description="Projected CRS for all; the UTM zone of each place if not given."
    )
    chunk: int | None = Field(
        None, description="Side of a chunk, px: a whole number of cores; one core if not given."
    )
    threshold: Literal["card", "otsu", "isodata"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "card", description="Landslide is what is at or above it: a rule, or a probability from 0 to 1."
    )
    pre_threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Threshold of the scenes before the event; that of those after if not given."
    )
    min_area: Annotated[Finite, Field(ge=0)] = Field(100.0, description="Least area of a polygon, m2.")
    resume: bool = Field(False, description="Go on with the run in the output; starts one if it is empty.")
    update: bool = Field(
        False,
        description="Search again, and compute anew only what has other scenes now; starts a run if it is "
        "empty.",
    )
    tolerate_failed: Annotated[int, Field(ge=0)] = Field(
        0, description="Failed chunks up to this number still end with exit code 0."
    )
    publish_pixels: Permission = Field(
        "auto",
        description="Show scenes on the map page; auto: if their licence is open; no: nor in pictures.",
    )

    @model_validator(mode="after")
    def _keep_or_search(self) -> "OutputConfig":
        if self.resume and self.update:
            raise ValueError("--resume keeps the scenes of a run, --update searches again; give one of them")
        return self


class TerrainConfig(Value):
    """What the ground is like under the landslides; nothing of it without a DEM."""

    dem: str | None = Field(
        None, description="Elevations, m: a GeoTIFF or a STAC catalog; gives each polygon slope and relief."
    )
    dem_collection: Words = Field((), description="Collections of a DEM's catalog, e.g. cop-dem-glo-30.")
    min_slope: Annotated[Finite, Field(gt=0, lt=90)] | None = Field(
        None, description="Degrees: flatter ground is no landslide. Loses deposits; off if not given."
    )


class ExposureConfig(Value):
    """What lies around the landslides, in local files; none of it changes a pixel or a polygon."""

    roads: Layer = Field(
        None, description="File of roads (lines): how many a landslide cuts, and m of them. none: drop it."
    )
    rivers: Layer = Field(
        None, description="File of rivers (lines or areas): distance, contact, whether one may be dammed."
    )
    buildings: Layer = Field(
        None, description="File of buildings (areas or points): how many a landslide touches."
    )


class CoregistrationConfig(Value):
    """How the scenes before the event lie on those after it."""

    coregister: Literal["off", "check", "repair"] = Field(
        "check",
        description="check: measure the shift of each scene before the event; repair: also move those that "
        "lie up to 5 px off.",
    )


class ClusterConfig(Value):
    """Where the work runs; none of it changes a pixel."""

    scheduler: Scheduler = Field(
        "local",
        description="local; local-cuda, a worker a GPU; or a scheduler: tcp://HOST:PORT or tls://HOST:PORT.",
    )
    workers: Annotated[int, Field(ge=1)] = Field(1, description="Worker processes of a local cluster.")
    threads: Annotated[int, Field(ge=1)] = Field(
        2, description="Threads a local worker: one computes, the others read and write."
    )
    tls_ca: str | None = Field(None, description="PEM file of a tls:// scheduler's CA. Default: Dask's.")
    tls_cert: str | None = Field(None, description="PEM file of our certificate for it. Default: Dask's.")
    tls_key: str | None = Field(None, description="PEM file of its key. Default: in --tls-cert, or Dask's.")
    plain_scheduler: bool = Field(
        False, description="Use a tcp:// scheduler of another machine: everybody there can run code on it."
    )
    first: str | None = Field(
        None,
        description="Mapped first: near longitude,latitude, or where a raster is greatest; the epicentre of "
        "--event if not given.",
    )
    part: Annotated[str, AfterValidator(_is_part)] | None = Field(
        None,
        description="I/N: predict share I, from 0, of N and no more; see coseis finish.",
    )
    worker_timeout_s: Annotated[Finite, Field(gt=0)] = Field(
        300.0, description="How long to wait for workers, at the start or when all have left, seconds."
    )
    scheduler_timeout_s: Annotated[Finite, Field(gt=0)] = Field(
        60.0, description="How long a scheduler that is there may not answer, seconds."
    )
    grace_s: Annotated[Finite, Field(ge=0)] = Field(
        20.0, description="For the chunks in hand after SIGTERM, seconds; Kubernetes kills after 30."
    )

    @property
    def share(self) -> tuple[int, int]:
        """Which share of the chunks is predicted, and of how many."""
        number, count = (self.part or "0/1").split("/")
        return int(number), int(count)


class MapConfig(Value):
    """Everything that `coseis map` takes; stored, resolved, in run.json."""

    @property
    def public(self) -> "MapConfig":
        """What is stored with the output: addresses without user names and queries, which carry secrets."""
        catalog, dem = public_form(self.search.catalog), self.terrain.dem
        return self.model_copy(
            update={
                "search": self.search.model_copy(update={"catalog": catalog}),
                "terrain": self.terrain.model_copy(update={"dem": dem and public_form(dem)}),
            }
        )

    search: SearchConfig
    model: ModelConfig = ModelConfig()
    output: OutputConfig
    cluster: ClusterConfig = ClusterConfig()
    terrain: TerrainConfig = TerrainConfig()
    coregistration: CoregistrationConfig = CoregistrationConfig()
    exposure: ExposureConfig = ExposureConfig()


def stage_options() -> Iterator[tuple[str, str, FieldInfo]]:
    """(stage, name, field) of every setting of a run; names are unique over the stages."""
    return settings_of(MapConfig)


def load_config(path: Path | None, options: Mapping[str, Any]) -> MapConfig:
    """The resolved configuration: options override the file, the file overrides the defaults.

    Args:
        path: YAML with one mapping a stage (search, model, output, cluster, terrain), or None. A setting that
            has no value there counts as not given.
        options: Values by name, as of `stage_options`; those that were not given are left out.

    Returns:
        All settings of `map_event`, those that were not given at their defaults.

    Raises:
        UsageError: unreadable file, unknown key, or a value of the wrong kind; all of them are named.
    """
    stages = read_stages(MapConfig, path)
    for stage, name, _ in stage_options():
        if name in options:
            stages[stage] = {**stages[stage], name: options[name]}
    return check_stages(MapConfig, stages, path, options)


def load_stage(stage: type[Setting], options: Mapping[str, Any]) -> Setting:
    """One stage alone, for the commands that need no more: `load_stage(SearchConfig, options)`.

    Raises:
        UsageError: a value is missing or of the wrong kind; all of them are named.
    """
    return check_stage(MapConfig, stage, options)
