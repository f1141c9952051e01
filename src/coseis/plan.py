"""A configuration goes in, a frozen plan of the run comes out: scenes, grid, sizes, identity.

The plan is written to items.json before any pixel is predicted. Whoever has it (a resumed run, another
machine, a later `vectorize`) computes the same bytes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from affine import Affine
from obstore.store import ObjectStore
from odc.geo.geobox import GeoBox
from pydantic import AwareDatetime, ValidationError
from rasterio.windows import Window

from coseis import __version__
from coseis.addresses import AddressPolicy
from coseis.card import ModelCard
from coseis.catalogs import catalog_address
from coseis.config import MapConfig, SearchConfig
from coseis.cube import Recipe
from coseis.errors import InputRefusedError, UsageError
from coseis.event import Event, Found, read_event
from coseis.geotiff import forget_headers
from coseis.grid import SceneIndex, native_resolution_m, output_geobox
from coseis.identity import Identity, ZoneGrid, digest_card, digest_pixels, digest_scenes
from coseis.model import Model, Precision, check_bands, load_model
from coseis.objects import create_object, get_object, put_object
from coseis.reader import BLOCK_PX, inspect_scene
from coseis.scene_shift import Coregistration
from coseis.search import SearchFilters, drop_unlike, search_items
from coseis.store import DoneRecord, digest_of, read_records
from coseis.types import PHASES, Scene, Value
from coseis.usable import check_mask
from coseis.usgs import read_usgs
from coseis.vegetation import INDEX_BANDS, choose_index
from coseis.windows import HALO_PX, Chunk, check_chunk, choose_core, chunk_grid, window_px
from coseis.zones import split_area

ITEMS = "items.json"
CONFIG = "config.json"
"""What the run was asked for, as it was last begun or resumed."""
MODEL = "model"
"""Folder of the run that holds its model's card and weights."""
INSPECT_THREADS = 16
"""Headers and overviews are small remote reads: more threads than cores."""


class Update(Value):
    """What a new search of the catalog changed in a run."""

    number: int
    """From 1."""
    issued: AwareDatetime
    """When it was planned."""
    added: tuple[str, ...]
    """Item ids of the scenes that were not used before; so are the two below."""
    removed: tuple[str, ...]
    """Used no more."""
    changed: tuple[str, ...]
    """Used as before, but another file, another shift, or other words of the catalog."""
    changed_chunks: int
    """Chunks that were to be computed anew; the others stayed."""


class Plan(Value):
    """One run, decided: nothing that follows looks at the catalog or the configuration again."""

    identity: Identity
    found: Found
    card: ModelCard
    forced_resolution: bool
    """The model runs outside its range of pixel sizes, by --force-resolution."""
    chunk_px: int
    """Side of a chunk: that of the shards, whatever is asked for when the run is resumed."""
    coregistration: Coregistration | None = None
    """How the scenes before the event were found to lie; None: it was not measured."""
    retired: tuple[Scene, ...] = ()
    """Scenes that were used before an update and are no more: their indices are given to no other."""
    updates: tuple[Update, ...] = ()

    @cached_property
    def zones(self) -> tuple["Plan", ...]:
        """The plan of each UTM zone, the largest first: itself alone, where the region lies in one.

        Every place belongs to one of them, by its longitude, so each is a run like any other.
        """
        identity = self.identity
        if not identity.beyond:
            return (self,)
        main = ZoneGrid(crs=identity.crs, transform=identity.transform, shape=identity.shape)
        parts = dict(split_area(self.found.event.aoi))
        plans = []
        for grid in (main, *identity.beyond):
            event = self.found.event.model_copy(update={"aoi": parts[grid.crs]})
            changes = grid.model_dump() | {"aoi": digest_of(event.aoi), "beyond": ()}
            found = self.found.model_copy(update={"event": event})
            plans.append(self._anew(identity.model_copy(update=changes), found))
        return tuple(plans)

    def on_one_grid(self) -> "Plan":
        """The plan as if all of the region lay in its largest zone: for what looks at all of it at once."""
        if not self.identity.beyond:
            return self
        geobox = output_geobox(
            self.found.event.aoi, resolution_m=abs(self.geobox.affine.a), crs=self.identity.crs
        )
        identity = self.identity.model_copy(update=_zone_grid(geobox).model_dump() | {"beyond": ()})
        return self._anew(identity, self.found)

    @cached_property
    def geobox(self) -> GeoBox:
        """The output grid, of the largest zone where there are several."""
        return GeoBox(self.identity.shape, Affine(*self.identity.transform), self.identity.crs)

    def recipe(self) -> Recipe:
        """How to make the cube of this plan's scenes."""
        return Recipe(
            self.geobox,
            self.read_bands,
            self.identity.phases,
            self.found.scenes,
            self.found.event.aoi,
            self.identity.masked,
        )

    @property
    def read_bands(self) -> tuple[str, ...]:
        """The bands that the network sees, and after them what tells vegetation."""
        if self.identity.vegetation is None:
            return self.card.bands
        more = [band for band in INDEX_BANDS[self.identity.vegetation] if band not in self.card.bands]
        return (*self.card.bands, *more)

    def for_area(self, area: Window) -> "Plan":
        """The plan with only the scenes that touch an area: what a chunk needs."""
        found = self.found.model_copy(update={"scenes": self._scenes.touching(area)})
        return self.model_copy(update={"found": found})

    def with_shifts(self, shifts_m: Mapping[int, tuple[float, float]]) -> "Plan":
        """The plan whose scenes, by index, are moved: another identity, for other pixels are read."""
        scenes = tuple(
            scene.model_copy(update={"shift_m": shifts_m[scene.index]}) if scene.index in shifts_m else scene
            for scene in self.found.scenes
        )
        identity = self.identity.model_copy(update={"scenes": digest_scenes(scenes)})
        found = self.found.model_copy(update={"scenes": scenes})
        return self._anew(identity, found)

    def _anew(self, identity: Identity, found: Found) -> "Plan":
        return self.changed(identity=identity, found=found, coregistration=None)

    def changed(self, **changes: Any) -> "Plan":
        """Not a copy: that would keep the cached grid, and the index of the scenes where they were."""
        return Plan(**({name: getattr(self, name) for name in Plan.model_fields} | changes))

    @cached_property
    def _scenes(self) -> SceneIndex:
        return SceneIndex(self.found.scenes, self.geobox)

    def chunk_identity(self, chunk: Chunk) -> str:
        """Digest of what must be equal for two plans to give the same bytes of a chunk.

        That is the run's identity and the chunk's place; but of the scenes only those that touch what is read
        for it, their order, and of each what decides its pixels.
        """
        scenes = [self._scene_digests[scene.index] for scene in self._scenes.touching(self.area(chunk))]
        place = (chunk.y0, chunk.x0, chunk.height, chunk.width)
        return digest_of([self._identity_beside_scenes, place, scenes])

    @cached_property
    def _identity_beside_scenes(self) -> str:
        return digest_of(self.identity.model_dump(mode="json", exclude={"scenes", "update"}))

    @cached_property
    def _scene_digests(self) -> dict[int, str]:
        """By index, which counts too: kept pixels say it."""
        return {scene.index: digest_pixels(scene) for scene in self.found.scenes}

    def chunks(self, chunk_px: int) -> list[Chunk]:
        """All chunks of the output, row by row."""
        return list(chunk_grid(self.identity.shape, chunk_px))

    def area(self, chunk: Chunk) -> Window:
        """What must be read for a chunk: whole cores and the halo around them."""
        core, halo = self.identity.core_px, HALO_PX[self.card.padding]
        height = -(-chunk.height // core) * core + 2 * halo
        width = -(-chunk.width // core) * core + 2 * halo
        return Window(chunk.x0 - halo, chunk.y0 - halo, width, height)


Probe = Callable[[], tuple[str, Precision]]
"""Asks a worker for its device kind and default precision."""


def find_scenes(search: SearchConfig, card: ModelCard) -> Found:
    """Searches a catalog for the scenes of an event that a model can use.

    Raises:
        UsageError, InputRefusedError, UnreachableError: as `read_event` and `search_items` say.
    """
    event = event_of(search)
    filters = SearchFilters(
        max_cloud=search.max_cloud,
        max_snow=search.max_snow,
        quality=search.quality,
        include=search.include,
        exclude=search.exclude,
        kinds=tuple(card.inputs),
    )
    return search_items(
        search.catalog,
        event,
        collections=search.collection,
        bands=card.bands,
        filters=filters,
        policy=policy_of(search),
        allow_missing_pre=search.allow_missing_pre,
    )


def plan_anew(config: MapConfig, probe: Probe) -> Plan:
    """The plan of a run whose scenes are searched for and measured now. Writes nothing.

    Args:
        config: The resolved configuration.
        probe: Called once, on a worker.

    Raises:
        InputRefusedError, UnreachableError: the catalog or a scene is at fault, or does not answer.
        UsageError: the model does not fit the scenes, or a size is not legal.
    """
    model = load_model(config.model.model)
    found = find_scenes(config.search, model.card)
    scenes = inspect_scenes(found)
    found = drop_unlike(
        found.model_copy(update={"scenes": scenes}),
        max_snow=config.search.max_snow,
        include=config.search.include,
        allow_missing_pre=config.search.allow_missing_pre,
    )
    return _decide(config, found, model, probe)


def kept_plan(config: MapConfig, text: bytes, probe: Probe) -> Plan:
    """The plan that an output holds, if a run of this configuration may go on with it.

    Args:
        config: The resolved configuration.
        text: The output's items.json.
        probe: Called once, on a worker.

    Raises:
        InputRefusedError: neither --resume nor --update was given, or it is another run.
    """
    out = config.output.out
    if not (config.output.resume or config.output.update or config.cluster.part):
        raise InputRefusedError(
            f"output {out} already holds a run; go on with it by --resume, with new scenes by --update, "
            "or choose another --out"
        )
    plan = read_plan(text, out)
    # The windows are where an update looks for scenes: they may grow.
    names = ("time", "aoi") if config.output.update else tuple(Event.model_fields)
    _check_event(plan.found.event, event_of(config.search), names, out)
    again = _decide(config, plan.found, load_model(config.model.model), probe)
    check_same(plan.identity, again.identity.model_copy(update={"update": plan.identity.update}), out)
    measured, asked = plan.coregistration, config.coregistration.coregister
    if measured and measured.mode != asked:
        raise InputRefusedError(
            f"output {out} holds a run with --coregister {measured.mode}; "
            f"go on with that, or choose another --out for {asked}"
        )
    return plan


def freeze_plan(plan: Plan, config: MapConfig, store: ObjectStore) -> bool:
    """Begins a run in its output: the model first, so that a plan that is there is complete.

    Every worker and every later pass reads these, not the catalog and the model's folder.

    Returns:
        False if another process has put its plan there meanwhile: that one counts.
    """
    for name, content in load_model(config.model.model).files().items():
        put_object(store, f"{MODEL}/{name}", content)
    text = plan.model_dump_json(indent=1).encode()
    counts = create_object(store, ITEMS, text) or get_object(store, ITEMS) == text
    if counts:
        put_object(store, CONFIG, config.public.model_dump_json(indent=1).encode())
    return counts


def read_plan(text: bytes, out: str) -> Plan:
    """The plan in an items.json.

    Raises:
        InputRefusedError: it is not one of this version of coseis.
    """
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputRefusedError(
            f"{out}/{ITEMS} is not a run of coseis {__version__}: {place}: {first['msg']}"
        ) from error


def read_done(plan: Plan, store: ObjectStore) -> dict[str, DoneRecord]:
    """The chunks that are done of a plan, or of one of its zones: by name, their records."""
    chunks = plan.chunks(plan.chunk_px)
    return read_records(store, plan.geobox, {chunk.name: plan.chunk_identity(chunk) for chunk in chunks})


def chunk_size(config: MapConfig, core_px: int) -> int:
    """The configured chunk size, or one core.

    Raises:
        UsageError: not a whole number of cores.
    """
    return check_chunk(core_px if config.output.chunk is None else config.output.chunk, core_px)


def _decide(config: MapConfig, found: Found, model: Model, probe: Probe) -> Plan:
    """Grid, sizes and identity; a worker is asked last, so that what can be refused is refused before."""
    card = model.card
    for scene in found.scenes:
        check_bands(card, scene.bands)
    absent = [phase for phase in card.phases if not found.of_phase(phase)]
    if len(card.phases) > 1 and absent:
        raise UsageError(
            f"model {card.name} sees {' and '.join(card.phases)} at once, but no {absent[0]} scene was "
            "found; search more dates, or choose a model of one phase"
        )
    resolution_m = config.output.resolution or native_resolution_m(found.scenes)
    forced = _check_resolution(card, resolution_m, forced=config.model.force_resolution)
    area = found.event.aoi
    parts = ((config.output.crs, area),) if config.output.crs else split_area(area)
    geobox, *beyond = (output_geobox(part, resolution_m=resolution_m, crs=crs) for crs, part in parts)
    core_px = config.model.core
    if core_px is None:
        core_px = choose_core((geobox.shape.y, geobox.shape.x), card.padding)
    window_px(core_px, card.padding)
    chunk_px = chunk_size(config, core_px)
    phases = tuple(phase for phase in PHASES if found.of_phase(phase))
    device, default_precision = probe()
    precision = default_precision if config.model.precision == "auto" else config.model.precision
    identity = Identity(
        scenes=digest_scenes(found.scenes),
        aoi=digest_of(found.event.aoi),
        **_zone_grid(geobox).model_dump(),
        beyond=tuple(_zone_grid(other) for other in beyond),
        phases=phases,
        masked=config.search.mask,
        vegetation=choose_index(found.scenes, card.bands) if len(phases) > 1 else None,
        block_px=BLOCK_PX,
        core_px=core_px,
        batch=config.model.batch,
        precision=precision,
        device=device,
        platform=sys.platform,
        model=model.digest,
        card=digest_card(card),
        code=__version__,
    )
    return Plan(identity=identity, found=found, card=card, forced_resolution=forced, chunk_px=chunk_px)


def _zone_grid(geobox: GeoBox) -> ZoneGrid:
    return ZoneGrid(
        crs=str(geobox.crs),
        transform=tuple(geobox.affine)[:6],
        shape=(geobox.shape.y, geobox.shape.x),
    )


def inspect_scenes(found: Found) -> tuple[Scene, ...]:
    """The scenes with pixel size and statistics, read from their headers and overviews in parallel.

    Raises:
        InputRefusedError: a file cannot be read, or its address is redirected to a place that is not allowed.
        UnreachableError: a host does not answer.
    """
    forget_headers()

    def inspect(scene: Scene) -> Scene:
        check_mask(scene)
        return inspect_scene(scene, scene.bands)

    with ThreadPoolExecutor(INSPECT_THREADS) as pool:
        return tuple(pool.map(inspect, found.scenes))


def policy_of(search: SearchConfig) -> AddressPolicy:
    """What a search may reach."""
    return AddressPolicy(
        catalog=catalog_address(search.catalog), allow_hosts=search.allow_host, allow_roots=search.allow_root
    )


def _check_resolution(card: ModelCard, resolution_m: float, *, forced: bool) -> bool:
    least, most = card.resolution_m
    if least <= resolution_m <= most:
        return False
    if not forced:
        raise UsageError(
            f"the grid has pixels of {resolution_m:g} m, but model {card.name} was trained for {least:g} to "
            f"{most:g} m; give --resolution within that range, another --model, or --force-resolution"
        )
    return True


def event_of(search: SearchConfig) -> Event:
    """The event that a search is asked for. Raises as `read_event` and `read_usgs`."""
    usgs = read_usgs(Path(search.event), min_intensity=search.min_intensity) if search.event else None
    return read_event(search.event_time, search.aoi, pre=search.pre, post=search.post, usgs=usgs)


def _check_event(kept: Event, now: Event, names: Sequence[str], out: str) -> None:
    """The scenes of a resumed run are frozen, so its place and time cannot be others either."""
    changed = [name for name in names if getattr(kept, name) != getattr(now, name)]
    if changed:
        raise InputRefusedError(
            f"output {out} holds a run of another {', '.join(changed)}; choose another --out"
        )


def check_same(kept: Identity, now: Identity, out: str) -> None:
    """Refuses to go on with a run of another identity; what differs is named."""
    if kept == now:
        return
    old, new = kept.model_dump(mode="json"), now.model_dump(mode="json")
    changes = ", ".join(f"{key} is {old[key]} there, {new[key]} now" for key in old if old[key] != new[key])
    raise InputRefusedError(f"output {out} holds another run: {changes}; choose another --out")
