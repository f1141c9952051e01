"""A plan and its cube go in; the raster layers of the map page come out, rendered on the cluster.

A layer is one PMTiles archive: the scenes before and after the event in colour, and the codes of the cube.
Blocks of the highest zoom are warped each by a task; lower zooms are made of stored tiles. Tiles travel
encoded, some 30 kB each, and the only process that writes an archive is this one.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import shapely
from distributed import Client
from rich.progress import Progress

from coseis.archive import TileSpool, write_archive
from coseis.cube import read_window
from coseis.jobs import Failure, run_jobs
from coseis.missing import MissingChunks, hide_missing
from coseis.objects import delete_object, open_store
from coseis.page import MapLayers
from coseis.picture import stretch_between
from coseis.plan import Plan
from coseis.store import open_arrays
from coseis.task import run_plan
from coseis.tiles import (
    EMPTY_CODES,
    EMPTY_IMAGE,
    LEAST_ZOOM,
    Empty,
    Halve,
    Pixels,
    Tile,
    coarser_tiles,
    cut_block,
    decode_codes,
    decode_image,
    encode_codes,
    encode_image,
    halve_codes,
    halve_image,
    native_zoom,
    tiles_over,
    warp_codes,
    warp_image,
    window_under,
    zoom_steps,
)
from coseis.types import PHASES, InputKind, Phase, Scene, Status, Value

COLOURS = ("red", "green", "blue")
OPEN_LICENCE = re.compile(
    r"cc0-1\.0|cc-pddc|cc-by(-sa)?-\d\.\d(-[a-z]+)?|odc-by-1\.0|odbl-1\.0|pddl-1\.0|ogl-[a-z-]*\d\.\d"
    r"|etalab-2\.0|dl-de-(by|zero)-2\.0",
    re.IGNORECASE,
)
"""SPDX identifiers that let anyone publish what is made of the scenes: no NC, which forbids some to, and no
ND, which forbids changes."""


@dataclass(frozen=True)
class Codec:
    """How one kind of tile is read, halved and written."""

    decode: Callable[[bytes], Pixels]
    encode: Callable[[Pixels], bytes]
    halve: Halve
    empty: Empty
    """Value a band where there is no tile."""


CODECS = {
    "image": Codec(decode_image, encode_image, halve_image, EMPTY_IMAGE),
    "codes": Codec(decode_codes, encode_codes, halve_codes, EMPTY_CODES),
}


class Stretch(Value):
    """Physical values to colours: `low`, a number a band, is black; `low + span` is white."""

    low: tuple[float, ...]
    span: float
    gamma: float
    """Exponent of the stretched value; below 1 brightens."""


@dataclass(frozen=True)
class Rendered:
    """The tiles of one block."""

    tiles: list[tuple[Tile, bytes]]
    """Only those that hold anything."""
    statuses: frozenset[int] = frozenset()
    """Status codes, without their bit, that occur in a block of codes."""


@dataclass(frozen=True)
class Layer:
    """One archive, and how its tiles are made."""

    name: str
    """`<name>.pmtiles`, and what progress is called."""
    description: str
    kind: str
    """Key of CODECS."""
    render: Callable[..., Rendered]
    """Called on a worker as render(out, identities, block, levels, *arguments)."""
    arguments: tuple[Any, ...] = ()


def render_layers(
    plan: Plan,
    out: str,
    client: Client,
    progress: Progress,
    *,
    publish_pixels: str = "auto",
    missing: Mapping[str, MissingChunks] | None = None,
) -> MapLayers:
    """Makes the raster layers of a run's map page and writes them beside it.

    Args:
        plan: As it lies in the output.
        out: Address of the run.
        client: Where to run.
        progress: Where it is shown.
        publish_pixels: Whether the scenes may be seen: `yes`, `no`, or `auto`, by their licences.
        missing: By CRS of the zone, the chunks that are not done; None: all are.

    Returns:
        What there is to show.

    Raises:
        InputRefusedError: the cube cannot be read, or the output not be written. A part of a scene that
            cannot be read is left out and counted.
        UnreachableError: the scheduler is lost.
    """
    withheld = why_withheld(plan.found.scenes, publish_pixels)
    shown: set[Phase] = set()
    unread = 0
    for phase in PHASES:
        scenes = () if withheld else plan.found.of_phase(phase)
        stretches = stretches_of(scenes, _bands(plan))
        layer = Layer(phase, f"Scenes {phase} event", "image", render_image, (phase, stretches))
        made, lost, _ = _render(layer, plan, out, client, progress) if scenes else (False, [], set())
        unread += len(lost)
        if made:
            shown.add(phase)
        else:
            delete_object(open_store(out), f"{phase}.pmtiles")
    description = "Probability code (red) and status (green)"
    layer = Layer("codes", description, "codes", render_codes, (missing or {},))
    made, lost, statuses = _render(layer, plan, out, client, progress)
    if lost:
        raise lost[0].error("the probability cube cannot be read")
    zoom = native_zoom(plan.geobox)
    return MapLayers(
        pre="pre" in shown,
        post="post" in shown,
        codes=made,
        min_zoom=min(LEAST_ZOOM, zoom),
        max_zoom=zoom,
        statuses=tuple(sorted(statuses)),
        withheld=withheld,
        unread_blocks=unread,
    )


def why_withheld(scenes: Sequence[Scene], publish_pixels: str) -> str:
    """Why the scenes' pixels may not be published, in a sentence; empty if they may.

    Args:
        scenes: All that are used.
        publish_pixels: `yes`, `no`, or `auto`: only if every scene has an OPEN_LICENCE.
    """
    if publish_pixels == "no":
        return "The images are not shown because the run was made with publish_pixels: no."
    closed = sorted(
        {str(s.licence or "none stated") for s in scenes if not OPEN_LICENCE.fullmatch(s.licence or "")}
    )
    if publish_pixels == "yes" or not closed:
        return ""
    return (
        "The images are not shown because the licence of the scenes does not let everyone publish them "
        f"({', '.join(closed)})."
    )


def stretches_of(scenes: Sequence[Scene], bands: Sequence[str]) -> dict[InputKind, Stretch]:
    """One stretch for all scenes of a phase, as `picture.stretch_rgb` does it for one picture.

    The medians over the scenes of their 2nd and 98th percentiles: tiles join without a seam, and one scene
    full of cloud darkens no other. Display values stay as they are.
    """
    stretches: dict[InputKind, Stretch] = {"display": Stretch(low=(0.0,) * len(bands), span=255.0, gamma=1.0)}
    measured = [scene.statistics for scene in scenes if scene.kind == "reflectance" and scene.statistics]
    if measured:
        low = tuple(median(one[band].p02 for one in measured) for band in bands)
        high = tuple(median(one[band].p98 for one in measured) for band in bands)
        span = max(top - bottom for bottom, top in zip(low, high, strict=True))
        stretches["reflectance"] = Stretch(low=low, span=max(span, 1e-6), gamma=0.8)
    return stretches


def render_image(
    out: str,
    identities: tuple[str, ...],
    block: Tile,
    levels: int,
    phase: Phase,
    stretches: dict[InputKind, Stretch],
) -> Rendered:
    """The tiles of a block of one phase in colour, within the AOI.

    Args:
        out: Address of the run.
        identities: Of its plan, or of the plan of each of its zones.
        block: Which.
        levels: Zooms that it is cut to.
        phase: Before or after.
        stretches: Of each kind of scene.

    Raises:
        InputRefusedError: a scene cannot be read.
    """
    whole: Pixels | None = None
    for identity in identities:
        part = _warp_image(run_plan(out, identity), block, levels, phase, stretches)
        if whole is None or part is None:
            whole = part if whole is None else whole
        else:
            np.copyto(whole, part, where=whole[3] == 0)
    return Rendered([] if whole is None else _encoded_block(whole, block, levels, CODECS["image"]))


def _warp_image(
    whole: Plan, block: Tile, levels: int, phase: Phase, stretches: dict[InputKind, Stretch]
) -> Pixels | None:
    window = window_under(block, whole.geobox)
    if window is None:
        return None
    plan = whole.for_area(window)
    bands = _bands(plan)
    recipe = dataclasses.replace(plan.recipe(), bands=bands, phases=(phase,))
    cube = read_window(recipe, window)
    values, index = cube.image[0], cube.scene[0]
    image = np.zeros((4, window.height, window.width), np.uint8)
    for kind, stretch in stretches.items():
        here = np.isin(index, [scene.index for scene in plan.found.scenes if scene.kind == kind])
        low = np.array(stretch.low, np.float32)[:, None]
        image[:3, here] = stretch_between(values[:, here], low, stretch.span, gamma=stretch.gamma)
        image[3, here] = 255
    image[3, cube.status[0] == Status.OUTSIDE_AOI] = 0
    return warp_image(image, plan.geobox, window, block, levels)


def render_codes(
    out: str, identities: tuple[str, ...], block: Tile, levels: int, missing: Mapping[str, MissingChunks]
) -> Rendered:
    """The tiles of a block of the cube: probability of the first class and status, after the event."""
    whole: Pixels | None = None
    for identity in identities:
        plan = run_plan(out, identity)
        part = _warp_codes(plan, out, block, levels, missing.get(plan.identity.crs))
        if whole is None or part is None:
            whole = part if whole is None else whole
        else:
            beyond = whole[1] == EMPTY_CODES[1]
            np.copyto(whole, part, where=beyond)
    if whole is None:
        return Rendered([])
    statuses = frozenset(int(code) for code in np.unique(whole[1]))
    return Rendered(_encoded_block(whole, block, levels, CODECS["codes"]), statuses)


def _warp_codes(
    plan: Plan, out: str, block: Tile, levels: int, missing: MissingChunks | None
) -> Pixels | None:
    window = window_under(block, plan.geobox)
    if window is None:
        return None
    arrays = open_arrays(out, plan.geobox)
    post = plan.identity.phases.index("post")
    rows, cols = window.toslices()
    read = {
        "probability": np.asarray(arrays["probability"][post, 0, rows, cols]),
        "status": np.asarray(arrays["status"][post, rows, cols]),
    }
    hide_missing(read, missing, plan.geobox, rows, cols)
    return warp_codes(np.stack(list(read.values())), plan.geobox, window, block, levels)


def reduce_tiles(kind: str, levels: int, children: Sequence[tuple[Tile, bytes]]) -> Rendered:
    """The zooms below stored tiles, so many levels of them."""
    codec = CODECS[kind]
    tiles = {tile: codec.decode(content) for tile, content in children}
    return Rendered(_encoded_below(tiles, levels, codec))


def _render(
    layer: Layer, plan: Plan, out: str, client: Client, progress: Progress
) -> tuple[bool, list[Failure], set[int]]:
    """Makes one archive; whether it holds anything, why blocks are missing, and which statuses occur."""
    run = f"{layer.name}-{time.time_ns()}"
    identities = tuple(zone.identity.digest() for zone in plan.zones)
    (zoom, levels), *lower = zoom_steps(native_zoom(plan.geobox))
    blocks = list(tiles_over(plan.found.event.aoi, zoom))
    bar = progress.add_task(f"draw {layer.name} tiles", total=len(blocks))
    lost: list[Failure] = []
    statuses: set[int] = set()
    with TileSpool() as spool:
        jobs: Iterable[tuple[str, Tile, tuple[Any, ...]]] = (
            (f"{run}-{block}", block, (out, identities, block, levels, *layer.arguments)) for block in blocks
        )
        for block, result in run_jobs(client, layer.render, jobs):
            if isinstance(result, Failure):
                lost.append(replace(result, reason=f"tiles of {tuple(block)}: {result.reason}"))
            else:
                _keep(spool, result.tiles)
                statuses |= result.statuses
            progress.advance(bar)
        for zoom, levels in lower:
            for block, result in run_jobs(client, reduce_tiles, _lower_jobs(spool, layer, run, zoom, levels)):
                if isinstance(result, Failure):
                    lost.append(replace(result, reason=f"tiles of {tuple(block)}: {result.reason}"))
                else:
                    _keep(spool, result.tiles)
        if not len(spool):
            return False, lost, statuses
        credits = dict.fromkeys(scene.attribution for scene in plan.found.scenes if scene.attribution)
        metadata = {
            "name": layer.name,
            "description": layer.description,
            "type": "overlay",
            "attribution": "; ".join(credits),
        }
        bounds = shapely.geometry.shape(plan.found.event.aoi).bounds
        write_archive(spool, open_store(out), f"{layer.name}.pmtiles", bounds=bounds, metadata=metadata)
    return True, lost, statuses


def _lower_jobs(
    spool: TileSpool, layer: Layer, run: str, zoom: int, levels: int
) -> Iterator[tuple[str, Tile, tuple[Any, ...]]]:
    """A job for each block that has tiles `levels` above it; these are read when it is submitted."""
    families: dict[Tile, list[Tile]] = {}
    for tile in spool.of_zoom(zoom + levels):
        families.setdefault(tile.parent(levels), []).append(tile)
    for block, tiles in families.items():
        children = [(tile, spool.get(tile)) for tile in tiles]
        yield f"{run}-{block}", block, (layer.kind, levels, children)


def _keep(spool: TileSpool, tiles: Sequence[tuple[Tile, bytes]]) -> None:
    for tile, content in tiles:
        spool.put(tile, content)


def _encoded_block(block: Pixels, tile: Tile, levels: int, codec: Codec) -> list[tuple[Tile, bytes]]:
    tiles = cut_block(block, tile, levels, codec.empty)
    highest = [(place, codec.encode(pixels)) for place, pixels in tiles.items()]
    return highest + _encoded_below(tiles, levels, codec)


def _encoded_below(tiles: Mapping[Tile, Pixels], levels: int, codec: Codec) -> list[tuple[Tile, bytes]]:
    encoded = []
    for _ in range(levels):
        tiles = coarser_tiles(tiles, codec.halve, codec.empty)
        encoded += [(place, codec.encode(pixels)) for place, pixels in tiles.items()]
    return encoded


def _bands(plan: Plan) -> tuple[str, ...]:
    """What is shown: red, green and blue where the model sees them, else its first band in grey."""
    return COLOURS if set(COLOURS) <= set(plan.card.bands) else plan.card.bands[:1]
