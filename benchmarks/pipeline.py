"""Nothing in, one line of JSON out: a scene from COG to Zarr by coseis, by hand on stackstac, and by MONAI.

    python benchmarks/pipeline.py [--quick] [--shape 8034 9292] [--rounds 3] [--only coseis monai]

One 8-bit scene that lies on the output's grid, of the size of the 2018 Iburi scene, is mapped with the
shipped model in float32, each time in a new process; imports, the model's first call and the cluster's start
are left out. The parts of coseis (read, predict, write, each alone, chunk after chunk) are measured beside
it, and a run whose network only sleeps. See `pipeline_contenders.py` for what each contender does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

from machine import describe_machine
from pipeline_contenders import CONTENDERS, predict_whole
from stand_ins import make_region, region_area

SHAPE = (8034, 9292)
QUICK_SHAPE = (1100, 1300)
CROP_PX, QUICK_CROP_PX = 3008, 512
"""Side of the upper left part that is also predicted at once, whole."""
HALO_PX = 96


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small scene, once: does it run at all?")
    parser.add_argument("--shape", type=int, nargs=2, default=SHAPE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    options = parser.parse_args(arguments)
    height, width = QUICK_SHAPE if options.quick else options.shape
    rounds = 1 if options.quick else options.rounds
    crop_px = min(QUICK_CROP_PX if options.quick else CROP_PX, height // 16 * 16, width // 16 * 16)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_region(folder / "region", (height, width), phases=("post",))
        (folder / "area.geojson").write_text(json.dumps(region_area((height, width))))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
        for number in range(rounds):
            for name in options.only:
                rows[name].append(_run(name, folder, number))
        expected = predict_whole(folder / "region" / "post.tif", crop_px)
        contenders = {
            name: _summary(rows[name], height * width, _difference(folder, name, expected))
            for name in options.only
        }
    ours = contenders.get("coseis", {}).get("mpx_per_s")
    print(
        json.dumps(
            {
                "benchmark": "pipeline",
                "machine": describe_machine(),
                "shape": [height, width],
                "rounds": rounds,
                "contenders": contenders,
                "coseis_over": {
                    name: round(ours / row["mpx_per_s"], 2)
                    for name, row in contenders.items()
                    if ours and name in ("by_hand", "monai")
                },
                "seconds_over_parts": (
                    round(contenders["coseis"]["seconds"] / contenders["parts"]["seconds"], 3)
                    if {"coseis", "parts"} <= contenders.keys()
                    else None
                ),
            }
        )
    )


def _run(name: str, folder: Path, number: int) -> dict[str, float]:
    words = [
        sys.executable,
        str(Path(__file__).with_name("pipeline_contenders.py")),
        name,
        str(folder),
        str(number),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def _summary(rows: Sequence[dict[str, float]], pixels: int, difference: dict[str, float]) -> dict[str, Any]:
    medians = {name: round(median(row[name] for row in rows), 3) for name in rows[0]}
    return {**medians, "mpx_per_s": round(pixels / medians["seconds"] / 1e6, 3), **difference}


def _difference(folder: Path, name: str, expected: np.ndarray) -> dict[str, float]:
    """Of a contender's probabilities from those of the crop predicted whole, where that knows its context."""
    path = folder / f"{name}-0.zarr"
    if not path.exists():
        return {}
    inner = slice(HALO_PX, len(expected) - HALO_PX)
    known = inner, inner
    gaps = np.abs(np.asarray(zarr.open_array(str(path), mode="r")[known], np.float32) - expected[known])
    return {"most_off": round(float(gaps.max()), 4), "share_off_0.01": round(float((gaps > 0.01).mean()), 6)}


if __name__ == "__main__":
    main()
