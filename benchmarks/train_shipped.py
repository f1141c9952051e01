"""A folder of labelled imagery in, the models that are shipped with coseis out.

    python benchmarks/train_shipped.py DATA [--without-iburi] [--out FOLDER]

Trains as the ladder's `ours` does, once, on every set; or on all but Iburi, for the network whose figures on
Iburi are those of an earthquake it never saw. Threshold and metrics of the card are those of the ladder's
left-out groups, so run `benchmarks/ladder.py DATA --only ours` first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coseis.confidence import sure_thresholds
from coseis.errors import UsageError
from coseis.evaluation import CodeCounts, restate_scores
from coseis.training.patches import Patch
from coseis.training.trainer import Running, train_model
from ladder_results import Result, read_result, result_path
from ladder_splits import PIXEL_M2, load_splits, read_groups
from networks import OURS, balance, simulated_patches

HERE = Path(__file__).parent
SCENE_PREVALENCE = 0.1
"""Share of landslides for which the threshold is chosen: 13 % of the scene of Iburi, 5 to 8 % of HR-GLDD."""
CARD_FILES = ("card.json", "weights.h5")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and writes one model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--without-iburi", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent / "src" / "coseis" / "models")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "ladder")
    options = parser.parse_args(arguments)
    splits = load_splits(HERE / "splits.yaml")
    tiles = ["tiles-" + "-".join(names) for names in splits.tiles.groups]
    groups = [f"hrgldd-{block}" for block in splits.hrgldd.blocks] + ["landslide4sense"]
    patches = read_groups(options.data, splits, groups if options.without_iburi else [*tiles, *groups])
    patches += simulated_patches()
    # Networks that were fine-tuned on the scene that they map are no measure of one that was not.
    names = [split.name for split in splits.splits if not split.name.startswith("iburi")]
    results = _ladder_results(options.results, ["transfer"] if options.without_iburi else names)
    threshold = best_threshold(results)
    counts = {result.split: _pixels(result).by_truth for result in results}
    high_precision, high_recall = sure_thresholds(counts, threshold, prevalence=SCENE_PREVALENCE)
    card = OURS.card(patches).model_copy(
        update={
            "name": "coseis-rgb-16-without-iburi" if options.without_iburi else "coseis-rgb-16",
            "threshold": threshold,
            "high_precision": high_precision,
            "high_recall": high_recall,
            "training_sets": _described(patches),
            "metrics": _metrics(results, threshold),
        }
    )
    training = train_model(
        balance(patches),
        start=card,
        folder=options.out,
        config=OURS.config,
        running=Running(on_epoch=lambda row: print(f"epoch {row['epoch']:.0f}: loss {row['loss']:.4f}")),
    )
    for path in training.model.path.iterdir():
        if path.suffix in (".csv", ".png", ".npz"):
            path.unlink()
    print(f"{training.model.path}: {training.model.digest}, threshold {threshold}")


def best_threshold(results: Sequence[Result], prevalence: float = SCENE_PREVALENCE) -> float:
    """The threshold of two decimals with the best F1 restated at a prevalence, the mean over the splits."""
    tried = np.arange(5, 96) / 100
    counts = [_pixels(result) for result in results]
    f1 = [
        [restate_scores(of_split.scores(float(value)), prevalence).f1 or 0.0 for value in tried]
        for of_split in counts
    ]
    return float(tried[np.argmax(np.mean(f1, axis=0))])


def _ladder_results(folder: Path, splits: Sequence[str]) -> list[Result]:
    """Those of `ours` with seed 0 that there are; the card names them."""
    found = [read_result(result_path(folder, OURS.name, split, 0)) for split in splits]
    results = [result for result in found if result is not None]
    if not results:
        raise UsageError(
            f"{folder} has no result of {OURS.name} on {', '.join(splits)}; run the ladder first"
        )
    return results


def _pixels(result: Result) -> CodeCounts:
    return sum((patch.pixels for patch in result.counts), CodeCounts())


def _metrics(results: Sequence[Result], threshold: float) -> dict[str, Any]:
    """Of networks that were trained alike without the patches they are scored on."""
    held_out = {}
    for result in results:
        pixels = _pixels(result)
        scores, loose = pixels.scores(threshold), pixels.scores(threshold, ignore_px=2)
        held_out[result.split] = {
            "precision": round(scores.precision or 0, 4),
            "recall": round(scores.recall or 0, 4),
            "f1": round(scores.f1 or 0, 4),
            "f1_beyond_2px": round(loose.f1 or 0, 4),
            "false_alarms_px_km2": round(pixels.false_alarms_per_km2(threshold, pixel_m2=PIXEL_M2) or 0),
            "prevalence": round(scores.prevalence or 0, 4),
        }
    return {
        "protocol": "Networks trained alike without the groups of a split are scored on them (seed 0, mean "
        "of 8 orientations) at this card's threshold, which has the best mean F1 on them restated at "
        f"{SCENE_PREVALENCE:.0%} landslides. The weights of this card saw all of its training sets.",
        "held_out": held_out,
    }


def _described(patches: Sequence[Patch]) -> tuple[str, ...]:
    tiles = sum(patch.group.startswith("tiles") for patch in patches)
    blocks = sorted({patch.group.removeprefix("hrgldd-") for patch in patches if "hrgldd" in patch.group})
    foreign = sum(patch.group == "landslide4sense" for patch in patches)
    synthetic = sum(patch.group.startswith("synthetic") for patch in patches)
    sets = [f"Iburi 2018, PlanetScope, {tiles} labelled tiles"] if tiles else []
    return (
        *sets,
        f"HR-GLDD, PlanetScope, event blocks {', '.join(blocks)}",
        f"Landslide4Sense, Sentinel-2, {foreign} patches",
        f"{synthetic} synthetic events of coseis.simulate",
    )


if __name__ == "__main__":
    main()
