"""A reading job goes in; a reader's seconds, a sample of its pixels and the bytes that it took come out.

Every reader makes float32 (scene, band, y, x) of files that hold all bands each, in threads of one process:

- `coseis`: `read_scene`, a window of CHUNK_PX after another, with its own threads for remote files.
- `stackstac`: a vrt:// asset a band, which is how it reads a file of several bands; its default chunks of
  1024 px, its default GDAL settings.
- `odc-stac`: `load` with `pool=`, which was faster here than Dask chunks; GDAL set by its own
  `configure_rio(cloud_defaults=True)`.
- `rasterio`: a bare loop over windows of CHUNK_PX, all bands in one read; through a WarpedVRT where the grid
  is another.

On another grid all are bilinear. Each runs in a process of its own: ours keeps GDAL from opening any VRT.
"""

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import box

CHUNK_PX = 1024
"""stackstac's default, and a whole number of stored blocks."""
SAMPLE_PX = 61
"""Every so many pixels are compared; prime, so that no block or chunk is favoured."""
BANDS = ("blue", "green", "red", "nir")
NODATA = 0
GDAL_FOR_COGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
}
"""For the bare loop: what GDAL's pages on cloud-optimized GeoTIFFs advise."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """What to read, in plain numbers, so that it travels to another process."""

    addresses: tuple[str, ...]
    """Paths, or http:// or s3:// addresses, a scene each."""
    scene_grid: tuple[int, tuple[float, ...], int]
    """EPSG code, affine and side in px of every file."""
    output_grid: tuple[int, tuple[float, ...], int]
    threads: int
    halo_px: int = 0
    """For coseis alone: how far windows reach beyond their chunk, to see what that costs."""


class Measured(NamedTuple):
    """What a reader did."""

    seconds: float
    sample: Pixels
    fetched_bytes: int
    decoded_bytes: int


def prepare(environment: dict[str, str], is_ours: bool) -> None:
    """Called first in a reader's process, before GDAL is used: where servers are; VRTs for all but ours."""
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    if not is_ours:
        os.environ.pop("GDAL_SKIP", None)


def measure(name: str, job: Job) -> Measured:
    """Times a reader by its name in READERS."""
    read = READERS[name](job)
    taken = (0, 0)
    started = time.perf_counter()
    if name == "coseis":
        pixels, *taken = read()
    else:
        pixels = read()
    seconds = time.perf_counter() - started
    return Measured(seconds, pixels[..., ::SAMPLE_PX, ::SAMPLE_PX].copy(), *taken)


def grid_of(numbers: tuple[int, tuple[float, ...], int]) -> GeoBox:
    """The grid of a job."""
    epsg, affine, side_px = numbers
    return GeoBox((side_px, side_px), Affine(*affine), f"EPSG:{epsg}")


def _coseis(job: Job) -> Callable[[], tuple[Pixels, int, int]]:
    from rasterio.windows import Window

    from coseis.blocks import ReadBytes, kept_blocks, read_bytes
    from coseis.reader import read_scene
    from coseis.types import BandSource, Scene

    grid, scene_grid = grid_of(job.output_grid), grid_of(job.scene_grid)
    moment = datetime(2018, 10, 1, tzinfo=UTC)
    scenes = [
        Scene(
            index=number, item_id=f"scene-{number}", collection=None, phase="post", kind="reflectance",
            sources=tuple(
                BandSource(band=band, asset="sr", href=address, index=index, nodata=NODATA)
                for index, band in enumerate(BANDS, 1)
            ),
            start=moment, end=moment, cloud_cover=0.0, resolution_m=3.0,
            geometry=scene_grid.extent.to_crs("EPSG:4326").json,
        )
        for number, address in enumerate(job.addresses)
    ]  # fmt: skip
    kept_blocks.clear()

    def read() -> tuple[Pixels, int, int]:
        out = np.full((len(scenes), len(BANDS), *grid.shape), np.nan, np.float32)
        halo_px = job.halo_px

        def fill(place: tuple[int, int, int]) -> ReadBytes:
            number, y0, x0 = place
            before = read_bytes()
            target = out[number, :, y0 : y0 + CHUNK_PX, x0 : x0 + CHUNK_PX]
            _, height, width = target.shape
            window = Window(x0 - halo_px, y0 - halo_px, width + 2 * halo_px, height + 2 * halo_px)
            into = None if halo_px else target
            part = read_scene(scenes[number], BANDS, grid, window, shared_px=2 * halo_px, out=into)
            if halo_px:
                target[:] = part[:, halo_px : halo_px + height, halo_px : halo_px + width]
            return read_bytes() - before

        with ThreadPoolExecutor(job.threads) as pool:
            taken = list(pool.map(fill, _places(job)))
        return out, sum(one.fetched for one in taken), sum(one.decoded for one in taken)

    return read


def _rasterio(job: Job) -> Callable[[], Pixels]:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    grid = grid_of(job.output_grid)
    warped = {
        "crs": f"EPSG:{job.output_grid[0]}", "transform": grid.affine, "width": grid.shape.x,
        "height": grid.shape.y, "resampling": Resampling.bilinear,
    }  # fmt: skip

    def read() -> Pixels:
        out = np.empty((len(job.addresses), len(BANDS), *grid.shape), np.float32)

        def fill(place: tuple[int, int, int]) -> None:
            number, y0, x0 = place
            target = out[number, :, y0 : y0 + CHUNK_PX, x0 : x0 + CHUNK_PX]
            window = Window(x0, y0, target.shape[2], target.shape[1])
            with rasterio.Env(**GDAL_FOR_COGS), rasterio.open(_in_gdal(job.addresses[number])) as file:
                if job.output_grid == job.scene_grid:
                    stored = file.read(window=window)
                else:
                    with WarpedVRT(file, **warped) as vrt:
                        stored = vrt.read(window=window)
            target[:] = stored
            target[stored == NODATA] = np.nan

        with ThreadPoolExecutor(job.threads) as pool:
            list(pool.map(fill, _places(job)))
        return out

    return read


def _stackstac(job: Job) -> Callable[[], Pixels]:
    import stackstac
    from rasterio.enums import Resampling

    grid, scene_grid = grid_of(job.output_grid), grid_of(job.scene_grid)
    items = [
        {
            "id": f"scene-{number}",
            "properties": {
                "datetime": f"2018-10-{number + 1:02}T00:00:00Z",
                "proj:epsg": job.scene_grid[0],
                "proj:bbox": list(scene_grid.boundingbox),
            },
            "assets": {
                band: {"href": f"vrt://{_in_gdal(address)}?bands={index}"}
                for index, band in enumerate(BANDS, 1)
            },
        }
        for number, address in enumerate(job.addresses)
    ]

    def read() -> Pixels:
        stack = stackstac.stack(
            items,
            assets=list(BANDS),
            epsg=job.output_grid[0],
            resolution=abs(grid.affine.a),
            bounds=tuple(grid.boundingbox),
            snap_bounds=False,
            dtype=np.dtype("float32"),
            fill_value=np.float32(np.nan),
            rescale=False,
            resampling=Resampling.bilinear,
        )
        pixels: Pixels = stack.data.compute(scheduler="threads", num_workers=job.threads)
        return pixels

    return read


def _odc_stac(job: Job) -> Callable[[], Pixels]:
    import pystac
    from odc.stac import configure_rio, load

    grid, scene_grid = grid_of(job.output_grid), grid_of(job.scene_grid)
    outline = box(*scene_grid.boundingbox, scene_grid.crs).to_crs("EPSG:4326")
    extensions = ("eo/v1.1.0", "raster/v1.1.0", "projection/v1.1.0")
    fields = {
        "raster:bands": [{"nodata": NODATA, "data_type": "uint16"}] * len(BANDS),
        "eo:bands": [{"name": band, "common_name": band} for band in BANDS],
        "proj:epsg": job.scene_grid[0],
        "proj:shape": list(scene_grid.shape),
        "proj:transform": [*scene_grid.affine[:6]],
    }
    items = []
    for number, address in enumerate(job.addresses):
        moment = datetime(2018, 10, number + 1, tzinfo=UTC)
        item = pystac.Item(f"scene-{number}", outline.json, list(outline.boundingbox), moment, {})
        item.stac_extensions = [
            f"https://stac-extensions.github.io/{name}/schema.json" for name in extensions
        ]
        media_type = pystac.MediaType.COG
        item.add_asset(
            "sr", pystac.Asset(address, media_type=media_type, roles=["data"], extra_fields=fields)
        )
        items.append(item)
    bands = [f"sr.{index}" for index in range(1, len(BANDS) + 1)]
    configure_rio(cloud_defaults=True)

    def read() -> Pixels:
        loaded = load(
            items, bands=bands, geobox=grid, resampling="bilinear", dtype="float32", pool=job.threads
        )
        return np.stack([loaded[band].values for band in bands], axis=1)

    return read


def _places(job: Job) -> list[tuple[int, int, int]]:
    """(scene, y, x) of every chunk, scene after scene, row after row."""
    starts = range(0, job.output_grid[2], CHUNK_PX)
    return list(product(range(len(job.addresses)), starts, starts))


def _in_gdal(address: str) -> str:
    if address.startswith("http"):
        return f"/vsicurl/{address}"
    return address.replace("s3://", "/vsis3/")


READERS: dict[str, Callable[[Job], Callable[[], Any]]] = {
    "coseis": _coseis,
    "rasterio": _rasterio,
    "stackstac": _stackstac,
    "odc-stac": _odc_stac,
}
