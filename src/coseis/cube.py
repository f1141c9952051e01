"""The cube of an event: scenes and an output grid go in, (phase, band, y, x) with status and scene come out.

`read_window` is what a task calls: it reads scenes best first and stops as soon as every pixel is filled.
`load_cube` is the same cube as a lazy xarray Dataset, stacked by stackstac with our own reader.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dask.array as da
import numpy as np
import rioxarray  # noqa: F401  (gives the cube its .rio accessor)
import stackstac
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from rasterio.windows import Window

from coseis.errors import UsageError
from coseis.event import Found
from coseis.grid import (
    epsg_of,
    footprint_bounds,
    native_resolution_m,
    output_geobox,
    pixels_inside,
    scenes_touching,
)
from coseis.reader import OVERVIEW_PX, percentiles_of, read_scene
from coseis.types import MASKABLE, MASKED, PHASES, SCENE_FILL, InputKind, Phase, Scene, Status
from coseis.usable import read_usable
from coseis.windows import chunk_grid

USABLE = "usable"
"""Stands among the bands for what the scene's mask says, where stackstac reads bands."""


@dataclass(frozen=True)
class Recipe:
    """How to make the cube at one place: plain data, no array, no open file, no signed address."""

    geobox: GeoBox
    """The whole region's grid; its origin anchors blocks and windows."""
    bands: tuple[str, ...]
    """STAC common names, in the order of the cube."""
    phases: tuple[Phase, ...]
    """Phases of the cube, in order."""
    scenes: tuple[Scene, ...]
    """Scenes that touch the place, best first within a phase."""
    aoi: dict[str, Any]
    """Area of interest, GeoJSON in longitude and latitude."""
    masked: tuple[str, ...] = MASKED
    """Classes of MASKABLE whose pixels are not used."""

    @property
    def masked_codes(self) -> tuple[Status, ...]:
        """The same as status codes."""
        return tuple(MASKABLE[name] for name in self.masked)


@dataclass(frozen=True)
class CubeWindow:
    """A computed part of the cube."""

    image: NDArray[np.float32]
    """(phase, band, y, x), physical units, NaN where missing."""
    status: NDArray[np.uint8]
    """(phase, y, x), Status codes."""
    scene: NDArray[np.uint16]
    """(phase, y, x), index into items.json, SCENE_FILL where no scene was used."""


def read_window(recipe: Recipe, window: Window) -> CubeWindow:
    """The cube over a window of the grid, which may reach beyond it (halos are read, not exchanged).

    Scenes are laid best first and never feathered: a pixel comes whole from one scene, from the best that is
    clear there; where none is, from the best whose class is not masked.

    Raises:
        InputRefusedError: a file cannot be read (see `reader.read_scene`); never turned into nodata.
    """
    shape = (len(recipe.phases), window.height, window.width)
    image = np.full((shape[0], len(recipe.bands), *shape[1:]), np.nan, np.float32)
    index = np.full(shape, SCENE_FILL, np.uint16)
    status = np.empty(shape, np.uint8)
    for number, phase in enumerate(recipe.phases):
        scenes = [scene for scene in recipe.scenes if scene.phase == phase]
        seen = np.full(shape[1:], Status.NOT_COMPUTED, np.uint8)
        for place, scene in enumerate(scenes):
            if place and (seen == Status.OBSERVED).all():
                break
            # The first is read to where it belongs; most windows have no other.
            into = None if place else image[number]
            values = read_scene(scene, recipe.bands, recipe.geobox, window, out=into)
            said = read_usable(scene, recipe.geobox, window)
            fresh = _lay(seen, said, np.isfinite(values[0]), recipe.masked_codes)
            if place:
                np.copyto(image[number], values, where=fresh)
            index[number][fresh] = scene.index
        missing = index[number] == SCENE_FILL
        if (seen[missing] != Status.NOT_COMPUTED).any():
            image[number][:, missing] = np.nan
        status[number] = _status(index[number], seen, scenes, recipe, window)
    return CubeWindow(image, status, index)


def load_cube(
    found: Found,
    geobox: GeoBox | None = None,
    *,
    bands: Sequence[str] = ("red", "green", "blue"),
    chunk_px: int = 1024,
    masked: Sequence[str] = MASKED,
    reader: type | None = None,
) -> xr.Dataset:
    """The event's scenes as a lazy cube: nothing is read until it is computed.

    Args:
        found: What `search_items` found.
        geobox: Output grid; default: the AOI in its UTM zone at the best post scene's resolution.
        bands: STAC common names.
        chunk_px: Side of a Dask chunk; each holds all bands, so a file is opened and decoded once.
        masked: Classes of the scenes' usable data masks that are not used: MASKABLE names them.
        reader: A stackstac reader class in place of ours, for tests and measurements.

    Returns:
        Dataset on (phase, band, y, x) with CRS: `image` float32, physical units (0-255 display, 0-1
        reflectance), NaN where missing; `status` uint8 (phase, y, x), Status codes; `scene` uint16
        (phase, y, x), index into `found.scenes`, 65535 where none was used. `attrs["scenes"]` holds the
        scenes as JSON, which `predict_proba` needs.

    Raises:
        UsageError: no grid given and no scene states its resolution.
    """
    geobox = geobox or output_geobox(found.event.aoi, resolution_m=native_resolution_m(found.scenes))
    phases = tuple(phase for phase in PHASES if found.of_phase(phase))
    recipe = Recipe(geobox, tuple(bands), phases, found.scenes, found.event.aoi, tuple(masked))
    images, indices, statuses = [], [], []
    for phase in phases:
        scenes = found.of_phase(phase)
        layers = _mosaic(_stack(scenes, recipe, chunk_px, reader or SceneReader), scenes, recipe, chunk_px)
        index, seen = layers[-2].astype(np.uint16), layers[-1].astype(np.uint8)
        images.append(layers[:-2])
        indices.append(index)
        statuses.append(
            da.map_blocks(
                _status_block,
                index,
                seen,
                recipe=recipe,
                phase=phase,
                dtype=np.uint8,
                meta=np.empty((0, 0), np.uint8),
            )
        )
    coordinates = xr.Dataset(coords={"phase": list(phases), "band": list(bands)})
    cube = coordinates.assign(
        image=(("phase", "band", "y", "x"), da.stack(images)),
        status=(("phase", "y", "x"), da.stack(statuses)),
        scene=(("phase", "y", "x"), da.stack(indices)),
    )
    cube = cube.assign_coords(dict(xr_coords(geobox)))
    cube.attrs["scenes"] = json.dumps([scene.model_dump(mode="json") for scene in found.scenes])
    return cube


def as_cube(image: xr.DataArray, *, kind: InputKind, phase: Phase = "post") -> xr.Dataset:
    """Any lazy image as a cube of one phase and one scene, as `predict_proba` takes it.

    Args:
        image: (band, y, x) with CRS and band names; physical units (0-255 display, 0-1 reflectance), NaN
            where missing. A sample of at most 512 px a side is computed now, for the percentiles.
        kind: What the numbers are.
        phase: Before or after the event.

    Raises:
        UsageError: the axes are others, or the sample holds no valid pixel.
    """
    if image.dims != ("band", "y", "x") or "band" not in image.coords:
        raise UsageError(f"image has axes {', '.join(map(str, image.dims))}; expected band (named), y, x")
    step = max(1, -(-max(image.shape[1:]) // OVERVIEW_PX))
    sample = image[:, ::step, ::step].values
    names = tuple(str(name) for name in image.band.values)
    statistics = {name: percentiles_of(values) for name, values in zip(names, sample, strict=True)}
    if not all(statistics.values()):
        raise UsageError("image holds no valid pixel in a sample of every band")
    moment = datetime.fromtimestamp(0, UTC)
    scene = Scene(
        index=0, item_id=str(image.name or "image"), collection=None, phase=phase, kind=kind, sources=(),
        start=moment, end=moment, cloud_cover=None, resolution_m=None, geometry={}, statistics=statistics,
    )  # fmt: skip
    missing = image.isnull().any("band")
    cube = xr.Dataset(
        {
            "image": image.expand_dims(phase=[phase]),
            "scene": missing.astype(np.uint16).expand_dims(phase=[phase]) * np.uint16(SCENE_FILL),
        }
    )
    cube.attrs["scenes"] = json.dumps([scene.model_dump(mode="json")])
    return cube


class SceneReader:
    """stackstac's reader protocol over `read_scene`: one band of a scene, all bands decoded at once.

    stackstac asks band after band; a one-slot memory a thread keeps the last window, so that the file is
    opened and decoded once for all of them.
    """

    _slot = threading.local()

    def __init__(
        self,
        *,
        url: str,
        spec: Any,
        resampling: Any,
        dtype: Any,
        fill_value: Any,
        scale_offset: Any,
        gdal_env: Any = None,
        errors_as_nodata: tuple[Exception, ...] = (),
    ) -> None:
        if errors_as_nodata:
            raise UsageError("errors_as_nodata is refused: a failed read must never look like a hole")
        self.url, self.spec = url, spec
        place = json.loads(url)
        self.band: str = place["band"]
        self.bands: tuple[str, ...] = tuple(place["bands"])
        self.scene = Scene.model_validate(place["scene"])

    def read(self, window: Window) -> NDArray[np.float32]:
        """The band over a window of the spec's grid, float32 (y, x), NaN where missing."""
        geobox = GeoBox(self.spec.shape, self.spec.transform, self.spec.epsg)
        key = (self.scene, self.bands, geobox, window)
        if getattr(self._slot, "key", None) != key:
            said = read_usable(self.scene, geobox, window)
            values = read_scene(self.scene, self.bands, geobox, window)
            self._slot.values = np.concatenate([values, said[None].astype(np.float32)])
            self._slot.key = key
        band: NDArray[np.float32] = self._slot.values[[*self.bands, USABLE].index(self.band)]
        return band

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            **state, resampling=None, dtype=None, fill_value=None, scale_offset=None
        )


def _stack(scenes: Sequence[Scene], recipe: Recipe, chunk_px: int, reader: type) -> da.Array:
    """Stackstac's (scene, band, y, x) array over the whole grid; the scenes keep their order."""
    epsg = epsg_of(recipe.geobox)
    items = []
    for scene in scenes:
        place = {"scene": scene.model_dump(mode="json"), "bands": recipe.bands}
        # stackstac refuses multi-band assets, so each band is an asset of its own whose address is the
        # whole recipe of its scene; only our reader understands it.
        bands = (*recipe.bands, USABLE)
        assets = {band: {"href": json.dumps({**place, "band": band})} for band in bands}
        properties = {
            "datetime": scene.start.isoformat(),
            "proj:epsg": epsg,
            "proj:bbox": footprint_bounds(scene, recipe.geobox),
        }
        items.append({"id": scene.item_id, "properties": properties, "assets": assets})
    stack = stackstac.stack(
        items,
        assets=[*recipe.bands, USABLE],
        epsg=epsg,
        resolution=abs(recipe.geobox.resolution.x),
        bounds=tuple(recipe.geobox.boundingbox),
        snap_bounds=False,
        chunksize=(1, -1, chunk_px, chunk_px),
        dtype=np.dtype("float32"),
        fill_value=np.float32(np.nan),
        rescale=False,
        sortby_date=False,
        errors_as_nodata=(),
        reader=reader,
        xy_coords=False,
        properties=False,
        band_coords=False,
    )
    lazy: da.Array = stack.data
    return lazy


def _mosaic(stack: da.Array, scenes: Sequence[Scene], recipe: Recipe, chunk_px: int) -> da.Array:
    """(band + 2, y, x): the best scene's values, its index and what was seen (see `_lay`). Chunk by chunk
    only the scenes that touch it enter the graph.
    """
    places = {scene.index: number for number, scene in enumerate(scenes)}
    rows: dict[int, list[da.Array]] = {}
    for chunk in chunk_grid((recipe.geobox.shape.y, recipe.geobox.shape.x), chunk_px):
        window = Window(chunk.x0, chunk.y0, chunk.width, chunk.height)
        touching = scenes_touching(scenes, recipe.geobox, window)
        shape = (len(recipe.bands) + 2, chunk.height, chunk.width)
        if not touching:
            hole = da.full(shape, np.nan, dtype=np.float32, chunks=shape)
            hole[-2], hole[-1] = SCENE_FILL, Status.NOT_COMPUTED
            rows.setdefault(chunk.row, []).append(hole)
            continue
        part = stack[[places[scene.index] for scene in touching]][:, :, *chunk.slices]
        layers = part.rechunk({0: -1}).map_blocks(
            _best_valid,
            indices=np.array([scene.index for scene in touching], np.float32),
            masked=recipe.masked_codes,
            drop_axis=0,
            chunks=shape,
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
        )
        rows.setdefault(chunk.row, []).append(layers)
    whole: da.Array = da.concatenate([da.concatenate(row, axis=2) for row in rows.values()], axis=1)
    return whole


def _best_valid(
    part: NDArray[np.float32], indices: NDArray[np.float32], masked: tuple[Status, ...]
) -> NDArray[np.float32]:
    """(scene, band + 1, y, x), the mask's word last, to (band + 2, y, x): values, index, what was seen."""
    out = np.full((part.shape[1] + 1, *part.shape[2:]), np.nan, np.float32)
    out[-2] = SCENE_FILL
    seen = np.full(part.shape[2:], Status.NOT_COMPUTED, np.uint8)
    for values, index in zip(part, indices, strict=True):
        fresh = _lay(seen, values[-1].astype(np.uint8), np.isfinite(values[0]), masked)
        out[:-2, fresh] = values[:-1, fresh]
        out[-2, fresh] = index
    out[-1] = seen
    return out


def _lay(
    seen: NDArray[np.uint8], said: NDArray[np.uint8], valid: NDArray[np.bool_], masked: Sequence[Status]
) -> NDArray[np.bool_]:
    """Lays a scene under those before it: where it is used, bool (y, x).

    Args:
        seen: uint8 (y, x), status of what lies already; NOT_COMPUTED where nothing does. Updated: where no
            scene is used, it holds the reason of the first that had data there.
        said: uint8 (y, x), what the scene's mask says.
        valid: bool (y, x), where the scene has data.
        masked: Classes that are not used.
    """
    held = np.isin(said, masked)
    unused = np.isin(seen, (Status.NOT_COMPUTED, *masked))
    clearer = (said == Status.OBSERVED) & (seen != Status.OBSERVED)
    fresh: NDArray[np.bool_] = valid & ~held & (unused | clearer)
    reason = valid & held & (seen == Status.NOT_COMPUTED)
    seen[fresh | reason] = said[fresh | reason]
    return fresh


def _status_block(
    index: NDArray[np.uint16],
    seen: NDArray[np.uint8],
    *,
    recipe: Recipe,
    phase: Phase,
    block_info: Any = None,
) -> NDArray[np.uint8]:
    (y0, y1), (x0, x1) = block_info[0]["array-location"]
    window = Window(x0, y0, x1 - x0, y1 - y0)
    scenes = scenes_touching([s for s in recipe.scenes if s.phase == phase], recipe.geobox, window)
    return _status(index, seen, scenes, recipe, window)


def _status(
    index: NDArray[np.uint16],
    seen: NDArray[np.uint8],
    scenes: Sequence[Scene],
    recipe: Recipe,
    window: Window,
) -> NDArray[np.uint8]:
    """Status codes: what was seen, or why nothing was; nodata within a footprint, else not acquired."""
    status = np.full(index.shape, Status.NOT_ACQUIRED, np.uint8)
    missing = index == SCENE_FILL
    if missing.any():
        for scene in scenes:
            status[pixels_inside(scene.geometry, recipe.geobox, window)] = Status.NODATA
    known = seen != Status.NOT_COMPUTED
    status[known] = seen[known]
    status[~pixels_inside(recipe.aoi, recipe.geobox, window)] = Status.OUTSIDE_AOI
    return status
