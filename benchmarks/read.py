"""Nothing in, one line of JSON out: how fast files of four bands become arrays, beside others' readers.

    python benchmarks/read.py [--quick] [--access local http s3] [--scenes 2] [--side-px 2048] [--rounds 3]
                              [--latency-ms 20]

Simulated scenes as Planet ships them, four bands of uint16 in a deflated COG with blocks of 512 px, are read
whole to float32: from the disk, over HTTP ranges, and from S3 (moto), the last two on servers of snailmail
that answer each request late (log-normal, `--latency-ms` is its mode). Once on the scenes' own grid, once on
a grid in the neighbouring UTM zone. `read_contenders` says what each reader does; threads are as many as
cores for local files, and REMOTE_THREADS for remote ones, which is more than any of the others' defaults.

Readers take turns, each in a process of its own that goes on living; the first round warms up. A reader keeps
no pixels from one round to the next: GDAL's own cache is far smaller than the scenes, and ours is emptied.
`ratios` are medians over rounds of another's seconds by ours. `amplification` is decoded bytes by the bytes
of the pixels wanted, without and with halos of 96 px around chunks of 1024.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.ndimage import zoom

from coseis.simulate.planetscope import write_cog
from machine import describe_machine
from read_contenders import BANDS, CHUNK_PX, NODATA, READERS, Job, Measured, grid_of, measure, prepare

REMOTE_THREADS = 16
HALO_PX = 96
EPSG, NEXT_EPSG = 32654, 32655
ORIGIN_XY = (583200.0, 4737000.0)
RESOLUTION_M = 3.0
BUCKET = "scenes"
ACCESS = ("local", "http", "s3")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two scenes of 700 px, one round: only a proof")
    parser.add_argument("--access", nargs="+", choices=ACCESS, default=ACCESS)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--side-px", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    options = parser.parse_args(arguments)
    if options.quick:
        options.scenes, options.side_px, options.rounds, options.latency_ms = 2, 700, 1, 2.0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        same, other = _grids(options.side_px)
        names = [f"scene-{number}.tif" for number in range(options.scenes)]
        for number, name in enumerate(names):
            write_cog(folder / name, _pixels(options.side_px, number), grid_of(same), nodata=NODATA)
        http = stack.enter_context(_http_server(folder, options.latency_ms))
        s3, environment = stack.enter_context(_s3_server(folder, options.latency_ms))
        readers = {name: stack.enter_context(_reader(name, environment)) for name in READERS}
        cores = os.cpu_count() or 1
        cases = []
        roots = {"local": f"{folder}/", "http": http, "s3": s3}
        for access in options.access:
            threads = cores if access == "local" else REMOTE_THREADS
            for grid_name, grid in {"same": same, "other": other}.items():
                job = Job(tuple(roots[access] + name for name in names), same, grid, threads)
                cases.append({"access": access, "grid": grid_name, **_compare(readers, job, options.rounds)})
    print(
        json.dumps(
            {
                "benchmark": "read",
                "machine": describe_machine(("coseis", "rasterio", "stackstac", "odc-stac")),
                "shape": [options.scenes, len(BANDS), options.side_px, options.side_px],
                "dtype": "uint16 to float32",
                "chunk_px": CHUNK_PX,
                "threads": {"local": cores, "remote": REMOTE_THREADS},
                "latency_ms": options.latency_ms,
                "rounds": options.rounds,
                "cases": cases,
            }
        )
    )


def _compare(readers: dict[str, ProcessPoolExecutor], job: Job, rounds: int) -> dict[str, Any]:
    """Seconds, rates and ratios of all readers for one job, in turns."""
    taken: dict[str, list[Measured]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        # Backwards every other time: who comes after whom shall not matter.
        for name, reader in list(readers.items())[:: 1 if number % 2 else -1]:
            taken[name].append(reader.submit(measure, name, job).result())
    seconds = {name: [one.seconds for one in all_of[1:]] for name, all_of in taken.items()}
    pixels = len(job.addresses) * job.output_grid[2] ** 2
    wanted_bytes = pixels * len(BANDS) * np.dtype(np.uint16).itemsize
    ours = taken["coseis"][-1]
    with_halo = readers["coseis"].submit(measure, "coseis", replace(job, halo_px=HALO_PX)).result()
    return {
        "seconds": {name: [round(one, 3) for one in every] for name, every in seconds.items()},
        "mb_s": {name: round(2 * wanted_bytes / median(every) / 1e6, 1) for name, every in seconds.items()},
        "ratios": {
            name: round(median(r / o for r, o in zip(every, seconds["coseis"], strict=True)), 2)
            for name, every in seconds.items()
            if name != "coseis"
        },
        "fetched_mb": round(ours.fetched_bytes / 1e6, 2),
        "amplification": round(ours.decoded_bytes / wanted_bytes, 3),
        "amplification_with_halo": round(with_halo.decoded_bytes / wanted_bytes, 3),
        "differences": {
            name: _difference(all_of[-1], ours) for name, all_of in taken.items() if name != "coseis"
        },
    }


def _difference(other: Measured, ours: Measured) -> float:
    """Largest difference of pixels that both have, in stored units; 0 stands for missing in odc-stac's."""
    both = np.isfinite(ours.sample) & np.isfinite(other.sample) & (other.sample != NODATA)
    if both.mean() < 0.5:
        return float("inf")
    return round(float(np.abs(ours.sample - other.sample)[both].max()), 3)


def _grids(side_px: int) -> tuple[tuple[int, tuple[float, ...], int], ...]:
    """The scenes' grid, and one in the next UTM zone that lies well over it."""
    x, y = ORIGIN_XY
    centre = x + RESOLUTION_M * side_px / 2, y - RESOLUTION_M * side_px / 2
    east, north = Transformer.from_crs(EPSG, NEXT_EPSG, always_xy=True).transform(*centre)
    corner = round(east - RESOLUTION_M * side_px / 2), round(north + RESOLUTION_M * side_px / 2)
    step = RESOLUTION_M
    return (
        (EPSG, (step, 0, x, 0, -step, y), side_px),
        (NEXT_EPSG, (step, 0, corner[0], 0, -step, corner[1]), side_px),
    )


def _pixels(side_px: int, seed: int) -> NDArray[np.uint16]:
    """Reflectance as Planet stores it, uint16 (4, y, x): smooth ground under noise, a corner missing."""
    random = np.random.default_rng(seed)
    ground = np.zeros((side_px, side_px))
    for step_px in (8, 64, 256):
        coarse = random.normal(size=(-(-side_px // step_px),) * 2)
        ground += zoom(coarse, step_px, order=1)[:side_px, :side_px] * step_px**0.5
    bands = [
        1200 + 40 * ground * (1 + band / 4) + random.normal(0, 25, ground.shape) for band in range(len(BANDS))
    ]
    stored = np.clip(bands, 1, 65535).astype(np.uint16)
    stored[:, : side_px // 10, : side_px // 7] = NODATA
    return stored


@contextmanager
def _reader(name: str, environment: dict[str, str]) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, prepare, (environment, name == "coseis")) as pool:
        yield pool


@contextmanager
def _http_server(folder: Path, latency_ms: float) -> Iterator[str]:
    """The HTTP server of snailmail over a folder, in a process of its own; yields its address."""
    command = [sys.executable, "-m", "snailmail.cli", str(folder), "--dist", "lognormal", "--json"]
    with subprocess.Popen(
        [*command, "--mode-ms", str(latency_ms)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            yield json.loads(server.stdout.readline())["base"]
        finally:
            server.terminate()


@contextmanager
def _s3_server(folder: Path, latency_ms: float) -> Iterator[tuple[str, dict[str, str]]]:
    """The S3 server of snailmail with a folder's files; yields the bucket and the environment to reach it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve_s3, args=(folder, latency_ms, there))
    server.start()
    try:
        endpoint = here.recv()
        yield (
            f"s3://{BUCKET}/",
            {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_S3_ENDPOINT": endpoint.removeprefix("http://"),
                "AWS_HTTPS": "NO",
                "AWS_VIRTUAL_HOSTING": "FALSE",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
    finally:
        here.send("stop")
        server.join()


def _serve_s3(folder: Path, latency_ms: float, connection: Connection) -> None:
    import boto3
    from snailmail import LogNormal, ObjectStore

    with ObjectStore(bucket=BUCKET) as store:
        client = boto3.client(
            "s3", endpoint_url=store.endpoint_url, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
        )  # fmt: skip
        for path in folder.glob("*.tif"):
            client.put_object(Bucket=BUCKET, Key=path.name, Body=path.read_bytes())
        store.set_latency(LogNormal(mode_ms=latency_ms, seed=0))
        connection.send(store.endpoint_url)
        connection.recv()


if __name__ == "__main__":
    main()
