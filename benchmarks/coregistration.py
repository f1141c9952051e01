"""Nothing in, one line of JSON out: how well shifts between scenes are found, and how often wrongly trusted.

    python benchmarks/coregistration.py [DATA] [--quick] [--pairs 40] [--calibrate]

Shifts of every kind of `shift_injections` are put into photographs of made-up ground. A good block is wrong
where its shift lies over half a pixel from the mean of what was put in, or over a pixel from more than a
tenth of its pixels. With DATA, a folder that holds iburi/, also real ones: what PlanetScope and Sentinel-2
both saw of Atsuma, as it is and with the known shift put in. --calibrate prints the regression that
`coregister` holds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import Resampling, reproject
from rasterio.windows import Window
from scipy.ndimage import shift as move

from coseis.coregister import CONFIDENCE, REACH_PX, WINDOW_PX, BlockShift, measure_shift
from machine import describe_machine
from shift_injections import KINDS, Pair, is_right, make_pair

FIRST_SEED, CALIBRATION_SEED = 0, 1000
"""What the constants were taken from is not what they are judged by."""
KNOWN_PX = (2.5, -1.5)
OVERLAP_PX = 290
"""Western columns of the PlanetScope scene that Sentinel-2 covers."""
TRUST = (0.1, 0.5, 0.9)
"""Limits of the classes of confidence whose share of right blocks is printed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with iburi/")
    parser.add_argument("--quick", action="store_true", help="two small pairs a kind: does it run at all?")
    parser.add_argument("--pairs", type=int, default=40, help="of each kind")
    parser.add_argument("--calibrate", action="store_true", help="on other pairs, and fit the confidence")
    options = parser.parse_args(arguments)
    first = CALIBRATION_SEED if options.calibrate else FIRST_SEED
    seeds = range(first, first + (2 if options.quick else options.pairs))
    measured = {
        kind: [_measure(make_pair(kind, seed, 256 if options.quick else 512)) for seed in seeds]
        for kind in KINDS
    }
    everything = [one for rows in measured.values() for one in rows]
    row: dict[str, Any] = {
        "benchmark": "coregistration",
        "machine": describe_machine(("coseis", "numpy", "scipy", "scikit-image")),
        "block_px": 256 if options.quick else 512,
        "kinds": {kind: _summarize(rows) for kind, rows in measured.items()},
        "all": _summarize(everything),
        "right_by_confidence": _reliability(everything),
    }
    if options.calibrate:
        row["confidence"] = {"held": CONFIDENCE, "fitted": _calibrate(everything)}
    if options.data:
        row["real"] = _measure_real(options.data / "iburi")
    print(json.dumps(row))


class Measured:
    """A block, what was found, and what was true."""

    def __init__(self, pair: Pair, found: BlockShift, seconds: float) -> None:
        shift_px = (found.dy_px, found.dx_px)
        self.found, self.seconds = found, seconds
        self.error_px = float(np.hypot(*(pair.shift_px.mean(axis=(1, 2)) - np.array(shift_px))))
        self.right = is_right(pair, shift_px)


def _measure(pair: Pair) -> Measured:
    started = time.perf_counter()
    found = measure_shift(pair.pre, pair.post, pair.valid)
    return Measured(pair, found, time.perf_counter() - started)


def _summarize(rows: Sequence[Measured]) -> dict[str, float | None]:
    good = [one for one in rows if one.found.state == "good"]
    known = [one.error_px for one in rows if np.isfinite(one.error_px)]
    # A good block that is nowhere right has no error, and counts as wrong.
    sure = [one.error_px for one in good if np.isfinite(one.error_px)]
    return {
        "blocks": len(rows),
        "good_share": round(len(good) / len(rows), 4),
        "weak_share": round(sum(one.found.state == "weak" for one in rows) / len(rows), 4),
        "ce90_px": _ce90(known),
        "ce90_good_px": _ce90(sure),
        "wrong_good_share": round(sum(not one.right for one in good) / len(good), 4) if good else None,
        "missed_share": round(sum(one.right for one in rows if one not in good) / len(rows), 4),
        "block_s": round(float(np.median([one.seconds for one in rows])), 3),
    }


def _ce90(errors_px: Sequence[float]) -> float | None:
    return round(float(np.quantile(errors_px, 0.9)), 3) if errors_px else None


def _reliability(rows: Sequence[Measured]) -> list[dict[str, float]]:
    """Of the measured blocks by confidence: how many were right, beside the confidence itself."""
    measured = [one for one in rows if one.found.state != "unmeasured"]
    classes = np.digitize([one.found.confidence for one in measured], TRUST)
    table = []
    for number in sorted(set(classes.tolist())):
        members = [one for one, place in zip(measured, classes, strict=True) if place == number]
        table.append(
            {
                "blocks": len(members),
                "confidence": round(float(np.mean([one.found.confidence for one in members])), 3),
                "right_share": round(float(np.mean([one.right for one in members])), 3),
            }
        )
    return table


def _calibrate(rows: Sequence[Measured]) -> tuple[float, float]:
    """The constants of `coregister.CONFIDENCE`."""
    from sklearn.linear_model import LogisticRegression

    measured = [one for one in rows if one.found.state != "unmeasured"]
    # Beyond 3 px a block is wrong, however far; a cloud's window 90 px off would else bend the curve.
    worst = np.array([[min(one.found.worst_px, 3.0)] for one in measured])
    fitted = LogisticRegression(C=100).fit(worst, [one.right for one in measured])
    return round(float(fitted.intercept_[0]), 2), round(float(-fitted.coef_[0, 0]), 2)


def _measure_real(folder: Path) -> list[dict[str, Any]]:
    """Sentinel-2 after the event on the pixels of PlanetScope, block by block, with and without a shift."""
    with rasterio.open(folder / "planetscope" / "scene_post.tif") as file:
        window = Window(0, 0, OVERLAP_PX, file.height)
        sharp = file.read(window=window).astype(np.float32)
        seen = file.dataset_mask(window=window) > 0
        place = {"dst_transform": file.transform, "dst_crs": file.crs, "dst_nodata": np.nan}
    coarse = np.full_like(sharp, np.nan)
    for band, name in zip(coarse, ("B4", "B3", "B2"), strict=True):
        with rasterio.open(folder / "sentinel2" / "post" / f"{name}.tif") as file:
            reproject(
                file.read(1).astype(np.float32), band, src_transform=file.transform, src_crs=file.crs,
                src_nodata=0, resampling=Resampling.bilinear, **place,
            )  # fmt: skip
    seen &= np.isfinite(coarse).all(axis=0)
    filled = np.where(seen, coarse, 0)
    moved = np.stack([move(band, KNOWN_PX, order=1) for band in filled])
    least = WINDOW_PX + REACH_PX
    rows = []
    for top in range(0, seen.shape[0] - least, 256):
        block = (slice(None), slice(top, top + 512))
        if seen[block[1]].mean() < 0.5 or seen[block[1]].shape[0] < least:
            continue
        one = measure_shift(filled[block], sharp[block], seen[block[1]])
        two = measure_shift(moved[block], sharp[block], seen[block[1]])
        more = [
            round(two.dy_px - one.dy_px - KNOWN_PX[0], 3),
            round(two.dx_px - one.dx_px - KNOWN_PX[1], 3),
        ]
        rows.append(
            {"top_px": top, "as_it_is": vars(one), "known_put_in": vars(two), "known_missed_by_px": more}
        )
    return rows


if __name__ == "__main__":
    main()
