"""Settings of a training: a YAML file and options go in, one checked `LearnConfig` comes out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from coseis.addresses import public_form
from coseis.card import Padding
from coseis.config import (
    FILE_ONLY,
    Area,
    ClusterConfig,
    Finite,
    SearchConfig,
    Words,
    as_tuple,
)
from coseis.errors import UsageError
from coseis.stages import check_stages, read_stages, settings_of
from coseis.training.settings import TrainConfig
from coseis.types import Phase, Value

SHIPPED = "shipped"
"""In place of a folder: the model that comes with coseis."""
Phases = Annotated[tuple[Phase, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Groups = Annotated[tuple[Words, ...], BeforeValidator(as_tuple)]


class RegionConfig(SearchConfig):
    """A labelled region of scenes; several are listed in the file."""

    labels: str = Field(description="Landslide polygons (any vector file, any CRS) or a label raster.")
    ignore: str | None = Field(None, description="Polygons of areas whose truth is not known.")
    class_field: str | None = Field(
        None, description="Attribute that names a polygon's class; all are landslides if not given."
    )
    classes: Words = Field(("landslide",), min_length=1, description="Classes to learn, in channel order.")
    ignore_classes: Words = Field(
        (), description="Classes whose truth counts as not known: old scars, clouds, water."
    )
    solid_px: float = Field(0.0, ge=0, description="Labels grow by so many px over background.")
    label_rule: Literal["centre", "all_touched"] = Field(
        "centre", description="A pixel is labelled if its centre lies in a polygon, or if one touches it."
    )
    labelled_area: Area | None = Field(
        None, description="Area that was searched for landslides: file or box as --aoi; the AOI if not given."
    )
    label_reach_m: Annotated[Finite, Field(gt=0)] | None = Field(
        None,
        description="Labels are known within this distance of a landslide only, m: nobody looked elsewhere.",
    )
    resolution: Annotated[Finite, Field(gt=0)] | None = Field(
        None, description="Pixel size, m; that of the scenes after the event if not given."
    )
    crs: str | None = Field(None, description="Projected CRS; the UTM zone of the AOI if not given.")
    group: str | None = Field(
        None, description="Name of the region, for --validation-groups; event-DATE if not given."
    )
    weight: Annotated[float, FILE_ONLY] = Field(
        1.0, gt=0, description="How often it is drawn, relative to other sources of the same area."
    )


class PatchesConfig(Value):
    """Labelled 8-bit images: folders of tiles, or NPZ files of HR-GLDD or Landslide4Sense form."""

    patches: Words = Field(
        min_length=1,
        description="Folders of images N.tif with labels N_mask.tif, or NPZ files with image and mask.",
    )
    scene: str | None = Field(
        None,
        description="Image that the tiles were cut from: normalizes them; all tiles together if not given.",
    )
    frame_px: int = Field(3, ge=0, description="Frame of a tile whose labels are not used, px.")
    exclude_blocks: Annotated[tuple[int, ...], BeforeValidator(as_tuple)] = Field(
        (1, 7, 8), description="Event blocks of an NPZ that are left out; HR-GLDD's damaged ones."
    )
    groups: Annotated[Groups, FILE_ONLY] = Field(
        (), description="Names of tiles that stay on one side of a split; others are a group each."
    )
    weight: Annotated[float, FILE_ONLY] = Field(
        1.0, gt=0, description="How often they are drawn, relative to other sources of the same area."
    )


class StartConfig(Value):
    """Which network is trained: one that exists, or a new one."""

    start: str | None = Field(
        None, description="Model to go on from: its folder, or shipped; a new network if not given."
    )
    name: str | None = Field(None, description="Name of the trained model; that of --out if not given.")
    bands: Words | None = Field(None, description="Bands of a new network; red,green,blue if not given.")
    phases: Phases | None = Field(
        None, description="Phases that a new network sees at once: post if not given, or pre,post."
    )
    base_filters: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Filters of a new network's first level; 16 if not given."
    )
    padding: Padding | None = Field(
        None, description="Padding of a new network's convolutions; same if not given."
    )
    normalization: Literal["scene", "fixed"] | None = Field(
        None,
        description="Of a new network: by each scene's own percentiles, which is taken if not given, or by "
        "mean and deviation of what it is trained on.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        chosen = ("bands", "phases", "base_filters", "padding", "normalization")
        own = [name for name in chosen if getattr(self, name) is not None]
        if self.start is not None and own:
            raise ValueError(
                f"{', '.join(own)} cannot be chosen: model {self.start} has its own; leave it out, or train "
                "a new network without start"
            )
        return self


class TrainingConfig(TrainConfig):
    """How it is trained, as people write it: pairs also as text."""

    @model_validator(mode="before")
    @classmethod
    def _read_pairs(cls, given: Any) -> Any:
        pairs = {name: as_tuple(given[name]) for name in ("class_weight", "blur_px") if name in given}
        for name, pair in pairs.items():
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"{name} is {given[name]!r}; expected two numbers, e.g. 0.5,0")
        return given | pairs


class ValidationConfig(Value):
    """What is kept from training, to choose the epoch and the threshold by."""

    split: Literal["none", "north", "south", "west", "east", "blocks"] = Field(
        "none", description="Part of every region that is kept: a side, or scattered blocks."
    )
    validation_share: float = Field(
        0.25, gt=0, lt=1, description="Share of a region's area that --split keeps."
    )
    validation_groups: Words = Field((), description="Groups of regions or patches that are kept whole.")


class FolderConfig(Value):
    """Where the model goes."""

    out: str = Field(description="Local folder for the model, its curves and its checkpoint.")
    resume: bool = Field(False, description="Go on with the training in --out; starts one if it is empty.")


class LearnConfig(Value):
    """Everything that `coseis train` takes; stored, resolved, in training.json."""

    regions: tuple[RegionConfig, ...] = ()
    patches: tuple[PatchesConfig, ...] = ()
    model: StartConfig = StartConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    output: FolderConfig
    cluster: ClusterConfig = ClusterConfig()

    @property
    def public(self) -> "LearnConfig":
        """What is stored with the model: addresses without user names and queries, which carry secrets."""
        regions = (
            region.model_copy(update={"catalog": public_form(region.catalog)}) for region in self.regions
        )
        return self.model_copy(update={"regions": tuple(regions)})


def load_learn_config(path: Path | None, options: Mapping[str, Any]) -> LearnConfig:
    """The resolved configuration: options override the file, the file overrides the defaults.

    Args:
        path: YAML with one mapping a stage, and lists of them for regions and patches; or None.
        options: Values by name, as of `settings_of(LearnConfig)`. Those of a region, and those of
            patches, make one entry of the list, or change the only one of the file.

    Returns:
        All settings of `learn_model`, those that were not given at their defaults.

    Raises:
        UsageError: unreadable file, unknown key, nothing to train on, or a value of the wrong kind.
    """
    stages = read_stages(LearnConfig, path)
    for stage, name, _ in settings_of(LearnConfig):
        if name in options and stage not in ("regions", "patches"):
            stages[stage] = {**stages[stage], name: options[name]}
    for stage, model in (("regions", RegionConfig), ("patches", PatchesConfig)):
        stages[stage] = _override_entry(stages[stage], model, options, path)
    if not stages["regions"] and not stages["patches"]:
        raise UsageError(
            "there is nothing to train on: give --catalog, --event-time, --aoi and --labels of a region, "
            "--patches, or regions and patches in a configuration file"
        )
    return check_stages(LearnConfig, stages, path, options)


def _override_entry(
    entries: list[dict[str, Any]], model: type[Value], options: Mapping[str, Any], path: Path | None
) -> list[dict[str, Any]]:
    """The entries of a stage, the only one of them changed by options, or made of them."""
    given = {name: options[name] for name in model.model_fields if name in options}
    if not given:
        return entries
    if len(entries) > 1:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{path} lists {len(entries)} entries that {named} could change; change it there")
    return [{**(entries[0] if entries else {}), **given}]
