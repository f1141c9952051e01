"""Nothing in, one line of JSON out: seconds and memory to trace, merge, write and tile many polygons.

    python benchmarks/vectors.py [--quick] [--polygons 100000 1000000]

A mask of round spots, as many as are asked for and some of them grown together, is traced in blocks of
2,048 px in this process, merged, written as GeoParquet and built into vector tiles of zooms 6 to 14.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coseis.draw import VECTORIZE_PX
from coseis.objects import open_store
from coseis.publish import write_inventory, write_tiles
from coseis.types import CODE_SCALE, SCENE_FILL
from coseis.vectorize import INCOMPLETE, merge_blocks, trace_block
from coseis.windows import chunk_grid
from machine import describe_machine
from stand_ins import region_grid

CELL_PX = 24
"""A spot a cell; the largest reach into the next."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few polygons: does it run at all?")
    parser.add_argument("--polygons", type=int, nargs="+", default=[100_000, 1_000_000])
    options = parser.parse_args(arguments)
    counts = [400] if options.quick else options.polygons
    rows = [_measure(count) for count in counts]
    print(json.dumps({"benchmark": "vectors", "machine": describe_machine(), "rows": rows}))


def _measure(count: int) -> dict[str, float]:
    cells = round(count**0.5)
    random = np.random.default_rng(0)
    radii_px = random.uniform(2, 0.55 * CELL_PX, (cells, cells)).astype(np.float32)
    grid = region_grid(cells * CELL_PX)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(scratch)
        blocks, seconds["trace_s"] = _timed(
            lambda: [
                trace_block(*_layers(radii_px, chunk.slices), origin=(chunk.y0, chunk.x0), threshold_code=112)
                for chunk in chunk_grid(grid.shape, VECTORIZE_PX)
            ]
        )
        polygons, seconds["merge_s"] = _timed(
            lambda: merge_blocks(blocks, grid, item_ids={0: "scene"}, model_digest="0", min_area_m2=0)
        )
        _, seconds["parquet_s"] = _timed(lambda: write_inventory(polygons, store, "landslides.parquet"))
        _, seconds["tiles_s"] = _timed(lambda: write_tiles(polygons, store, "tiles.pmtiles", attribution=""))
        tiles = Path(scratch, "tiles.pmtiles").stat().st_size
    return {
        "spots": cells**2,
        "polygons": len(polygons),
        **{name: round(value, 2) for name, value in seconds.items()},
        "tiles_mib": round(tiles / 2**20, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def _timed(call: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _layers(
    radii_px: npt.NDArray[np.float32], slices: tuple[slice, slice]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], dict[str, npt.NDArray[np.bool_]]]:
    """Codes, scene and the one layer of a block."""
    rows, cols = (np.arange(part.start, part.stop) for part in slices)
    radius = radii_px[np.ix_(rows // CELL_PX, cols // CELL_PX)]
    middle = (CELL_PX - 1) / 2
    distance = np.hypot((rows % CELL_PX - middle)[:, None], cols % CELL_PX - middle)
    inside = distance <= radius
    codes = np.where(inside, np.uint8(CODE_SCALE), np.uint8(0))
    scene = np.where(inside, np.uint16(0), np.uint16(SCENE_FILL))
    return codes, scene, {INCOMPLETE: np.zeros(codes.shape, bool)}


if __name__ == "__main__":
    main()
