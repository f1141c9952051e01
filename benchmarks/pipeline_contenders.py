"""A contender's name and a folder with a scene in, its seconds from COG to Zarr out; run by `pipeline.py`.

- `coseis`: `map_event` as shipped, one worker process of two threads, cores of 1,024 px; its stage
  `predict`, which reads, predicts, and writes codes of probability, status and scene with done-records.
- `parts`: what coseis does for a chunk, each part alone, in turn: the sum of read, predict and write.
- `asleep`: coseis with a network that sleeps at GPU_MPX_PER_S; `gpu_share` is how much of that it delivers.
- `by_hand`: what a user of the Pangeo stack writes: plain stackstac (a vrt:// asset a band, as it reads no
  file of several bands), `map_overlap` by 32 px to windows of 512, `model.predict` a block, `to_zarr`; in
  Dask's threads.
- `monai`: `sliding_window_inference` in PyTorch with the same weights, its documented roi of 512 px and
  overlap of 0.25, 4 windows a batch, constant blending; the scene read whole with rasterio, written whole
  with Zarr.

Nothing at the top imports `coseis.reader`: it keeps GDAL from opening any VRT, which stackstac must.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely

from coseis import backends
from coseis.card import ModelCard
from coseis.features import normalize_intensity
from coseis.model import load_model
from coseis.types import CODE_FILL, CODE_SCALE
from stand_ins import EVENT_TIME, install_network, map_config, region_area

CORE_PX = 1024
WARM_UP_PX = 1500
GPU_MPX_PER_S = 0.4
"""Of windows, halos included: what leaves two cores time to read and write, as a GPU's worker has."""
WINDOW_PX = 512
BY_HAND_PX, BY_HAND_DEPTH_PX = 448, 32
MONAI_OVERLAP, MONAI_BATCH = 0.25, 4

FloatArray = npt.NDArray[np.float32]


def map_with_coseis(folder: Path, number: int, *, asleep: bool = False) -> dict[str, float]:
    """The stage `predict` of a run; the worker has predicted a small area before."""
    from coseis.cluster import connected
    from coseis.config import ClusterConfig
    from coseis.pipeline import map_event

    def run(area: str, out: str, client: Any) -> Any:
        catalog = folder / "region" / "items.json"
        config = map_config(catalog, folder / area, folder / out, core=CORE_PX)
        return map_event(config, client=client)

    (folder / "small.geojson").write_text(json.dumps(region_area(WARM_UP_PX)))
    name = "asleep" if asleep else "coseis"
    with connected(ClusterConfig(workers=1, threads=2)) as client:
        if asleep:
            client.run(install_network, GPU_MPX_PER_S)
        run("small.geojson", f"{name}-small-{number}", client)
        report = run("area.geojson", f"{name}-{number}", client)
    if report.failed:
        raise RuntimeError(report.failed[0].reason)
    seconds = report.seconds["predict"]
    if asleep:
        windows_mpx = report.throughput.chunks * (CORE_PX + 192) ** 2 / 1e6
        return {"seconds": seconds, "gpu_share": windows_mpx / GPU_MPX_PER_S / seconds}
    _save_probability(folder / f"coseis-{number}", folder / f"coseis-{number}.zarr")
    return {"seconds": seconds}


def measure_parts(folder: Path, number: int) -> dict[str, float]:
    """Seconds to read all chunks, to predict them and to write them, one after another in this process."""
    from coseis.objects import get_object, open_store
    from coseis.plan import ITEMS, read_plan
    from coseis.store import create_cube, write_chunk
    from coseis.task import predict_chunk, read_window, run_model

    earlier, out = str(folder / f"coseis-{number}"), str(folder / f"parts-{number}")
    plan = read_plan(get_object(open_store(earlier), ITEMS) or b"", earlier)
    create_cube(
        out,
        plan.geobox,
        phases=plan.identity.phases,
        classes=plan.card.classes,
        core_px=CORE_PX,
        chunk_px=CORE_PX,
    )
    model = run_model(open_store(earlier), plan.identity.model)
    seconds = dict.fromkeys(("read_s", "predict_s", "write_s"), 0.0)
    for count, chunk in enumerate([plan.chunks(CORE_PX)[0], *plan.chunks(CORE_PX)]):
        started = time.perf_counter()
        cube = read_window(plan.recipe(), plan.area(chunk))
        read = time.perf_counter()
        codes = predict_chunk(plan, chunk, cube, model)
        predicted = time.perf_counter()
        write_chunk(out, plan.geobox, chunk, codes)
        written = time.perf_counter()
        if count:  # the first one compiles the network
            seconds["read_s"] += read - started
            seconds["predict_s"] += predicted - read
            seconds["write_s"] += written - predicted
    return {"seconds": sum(seconds.values()), **seconds}


def map_by_hand(folder: Path, number: int) -> dict[str, float]:
    """Plain stackstac, map_overlap, model.predict."""
    import dask.array as da
    import stackstac

    _leave_memory_alone()
    path = folder / "region" / "post.tif"
    model = load_model()
    network = model.network("float32")
    statistics = _percentiles(path)
    area = json.loads((folder / "area.geojson").read_text())
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "post", "collection": "PSScene", "links": [],
        "properties": {"datetime": EVENT_TIME.isoformat()}, "geometry": area,
        "bbox": shapely.geometry.shape(area).bounds,
        "assets": {
            band: {"href": f"vrt://{path}?bands={index}", "type": "image/tiff; application=geotiff"}
            for index, band in enumerate(model.card.bands, 1)
        },
    }  # fmt: skip
    with rasterio.open(path) as source:
        bounds, epsg = tuple(source.bounds), source.crs.to_epsg()

    def predict(block: FloatArray) -> FloatArray:
        height, width = block.shape[1:]
        # Blocks at the edge are smaller; one shape keeps Keras from compiling again.
        full = np.pad(block, ((0, 0), (0, WINDOW_PX - height), (0, WINDOW_PX - width)), mode="edge")
        features = _features(np.moveaxis(full, 0, -1), statistics, model.card)
        probability: FloatArray = network.predict(features[None], verbose=0)[0, :height, :width, 0]
        return probability[None]

    network.predict(np.zeros((1, WINDOW_PX, WINDOW_PX, 3), np.float32), verbose=0)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = stackstac.stack(
            [item], assets=list(model.card.bands), epsg=epsg, resolution=3, bounds=bounds, rescale=False,
            chunksize=BY_HAND_PX, dtype="float32", fill_value=np.float32(0),
        )  # fmt: skip
        image = stack.data[0].rechunk((3, BY_HAND_PX, BY_HAND_PX))
        depth = {0: 0, 1: BY_HAND_DEPTH_PX, 2: BY_HAND_DEPTH_PX}
        edges = {0: "none", 1: "reflect", 2: "reflect"}
        padded = da.overlap.overlap(image, depth=depth, boundary=edges)
        probability = padded.map_blocks(
            predict, dtype=np.float32, chunks=((1,), *padded.chunks[1:]), meta=np.empty((0, 0, 0), np.float32)
        )
        trimmed = da.overlap.trim_internal(probability, depth, edges)[0]
        trimmed.rechunk(BY_HAND_PX).to_zarr(str(folder / f"by_hand-{number}.zarr"))
    return {"seconds": time.perf_counter() - started}


def _leave_memory_alone() -> None:
    """What coseis tells the C library when it loads a network is not told in pipelines of others."""
    backends.keep_freed_memory = lambda: False


def map_with_monai(folder: Path, number: int) -> dict[str, float]:
    """MONAI's sliding window in PyTorch."""
    import torch
    import zarr
    from monai.inferers import sliding_window_inference

    from torch_unet import load_torch_unet

    _leave_memory_alone()
    path = folder / "region" / "post.tif"
    model = load_model()
    statistics = _percentiles(path)
    network = load_torch_unet(model.path).eval()
    with torch.inference_mode():
        network(torch.zeros(MONAI_BATCH, 3, WINDOW_PX, WINDOW_PX))
        started = time.perf_counter()
        with rasterio.open(path) as source:
            image = np.moveaxis(source.read(), 0, -1).astype(np.float32)
        features = np.moveaxis(_features(image, statistics, model.card), -1, 0)[None]
        result = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(features)),
            roi_size=(WINDOW_PX, WINDOW_PX),
            sw_batch_size=MONAI_BATCH,
            predictor=network,
            overlap=MONAI_OVERLAP,
        )
        zarr.save_array(str(folder / f"monai-{number}.zarr"), result[0, 0].numpy())
    return {"seconds": time.perf_counter() - started}


CONTENDERS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "coseis": map_with_coseis,
    "parts": measure_parts,
    "asleep": lambda folder, number: map_with_coseis(folder, number, asleep=True),
    "by_hand": map_by_hand,
    "monai": map_with_monai,
}


def predict_whole(path: Path, side_px: int) -> FloatArray:
    """Probability float32 (y, x) of the upper left part of a scene, in one call of the network."""
    model = load_model()
    with rasterio.open(path) as source:
        image = np.moveaxis(source.read(), 0, -1)[:side_px, :side_px].astype(np.float32)
    features = _features(image, _percentiles(path), model.card)
    network = model.network("float32")
    probability: FloatArray = np.asarray(network(features[None], training=False))[0, ..., 0]
    return probability


def _percentiles(path: Path) -> FloatArray:
    """float32 (3, band), intensity: from the overview, as coseis takes them."""
    with rasterio.open(path) as source:
        step = -(-max(source.shape) // 512)
        shape = (source.count, -(-source.height // step), -(-source.width // step))
        image = source.read(out_shape=shape, resampling=rasterio.enums.Resampling.average).astype(np.float32)
    return np.percentile(image, (2, 50, 98), axis=(1, 2)).astype(np.float32) / 255


def _features(image: FloatArray, percentiles: FloatArray, card: ModelCard) -> FloatArray:
    return normalize_intensity(image / np.float32(255), percentiles, card)


def _save_probability(run: Path, to: Path) -> None:
    """The probability of a run on the scene's own grid, for the comparison; 0 beyond the area of interest."""
    import zarr

    from coseis.objects import get_object, open_store
    from coseis.plan import ITEMS, read_plan
    from coseis.store import open_arrays

    plan = read_plan(get_object(open_store(str(run)), ITEMS) or b"", str(run))
    codes = np.asarray(open_arrays(str(run), plan.geobox)["probability"][0, 0])
    with rasterio.open(run.parent / "region" / "post.tif") as source:
        whole = np.zeros(source.shape, np.float32)
        column, row = ~source.transform @ (plan.geobox.affine.c, plan.geobox.affine.f)
    place = np.s_[round(row) : round(row) + codes.shape[0], round(column) : round(column) + codes.shape[1]]
    whole[place] = np.where(codes == CODE_FILL, 0, codes / np.float32(CODE_SCALE))
    zarr.save_array(str(to), whole)


if __name__ == "__main__":
    print(json.dumps(CONTENDERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
