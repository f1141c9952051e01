"""Results of the ladder in, tables in Markdown and CSV with paired intervals out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coseis.errors import UsageError
from coseis.evaluation import (
    BoundaryCounts,
    PairedDifference,
    Scores,
    paired_bootstrap,
    restate_scores,
)
from ladder_results import PatchCounts, PatchResult, Result
from ladder_splits import PIXEL_M2, Splits
from markdown import markdown_table, write_between

BEGIN, END = "<!-- ladder: made by benchmarks/ladder.py -->", "<!-- ladder: end -->"
RIVALS = ("trees", "rule")
"""What every rung above is compared with, pair by pair."""
PREVALENCE = 0.05
"""A share of landslides that a shaken region may have; labelled patches have several times that."""
ALL = "all"
"""The stratum of every patch."""

MAIN_COLUMNS = {
    "f1": "F1",
    "best_f1": "best F1",
    "f1_beyond_1px": "F1 ±1 px",
    "f1_beyond_2px": "F1 ±2 px",
    "boundary_iou": "boundary IoU",
    "false_alarms_per_km2": "false alarms px/km²",
    "area_ratio": "area ratio",
    "average_precision": "AUPRC",
    "precision": "precision",
    "recall": "recall",
}
DETAIL_COLUMNS = {
    "recall_400-1000 m2": "recall 400-1000 m²",
    "recall_1000-3000 m2": "1000-3000",
    "recall_3000-10000 m2": "3000-10000",
    "recall_over 10000 m2": "over 10000 m²",
    "iou50_precision": "objects IoU 0.5: precision",
    "iou50_recall": "recall",
    "cover50_precision": "objects half covered: precision",
    "cover50_recall": "recall",
    "restated_precision": "at 5 %: precision",
    "restated_f1": "F1",
}
PAIRED: dict[str, Callable[[PatchCounts], Scores | BoundaryCounts]] = {
    "f1": lambda counts: counts.exact,
    "f1_beyond_2px": lambda counts: counts.beyond_2px,
    "boundary_iou": lambda counts: counts.boundary,
    "false_alarms_per_km2": lambda counts: counts.beyond_3px,
}
"""Compared pair by pair, and the counts that each needs; `_score_of` makes the score."""


@dataclass(frozen=True)
class Run:
    """What a rung did with one seed on a split, or on several together."""

    rung: str
    split: str
    seed: int
    thresholds: tuple[float, ...]
    patches: tuple[PatchResult, ...]
    counts: tuple[PatchCounts, ...]
    """In the order of the patches."""


def write_report(
    results: Sequence[Result], splits: Splits, *, markdown: Path, table: Path, resamples: int = 2000
) -> None:
    """Writes the tables of all results.

    Args:
        results: Of any rungs, splits and seeds; the order of the rungs is that of the tables.
        splits: For the order of the splits, and which are also scored together.
        markdown: Its part between the markers is replaced; made if absent.
        table: CSV with every metric, a row for each rung, split, stratum and seed.
        resamples: Of the paired intervals.

    Raises:
        UsageError: The Markdown file is there, but not its markers.
    """
    runs = collect_runs(results, splits)
    names = [*splits.together, *(split.name for split in splits.splits)]
    sections = [
        _section(name, of_split, resamples)
        for name in names
        if (of_split := [run for run in runs if run.split == name])
    ]
    if not markdown.exists():
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(f"# The ladder\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    write_between(markdown, "\n\n".join(sections), markers=(BEGIN, END))
    table.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for run in runs for row in _csv_rows(run)]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def collect_runs(results: Iterable[Result], splits: Splits) -> list[Run]:
    """A run for each result, and one for each seed that all parts of a set of splits have."""
    runs = [
        Run(r.rung, r.split, r.seed, (r.threshold,), r.patches, tuple(r.counts)) for r in results
    ]  # fmt: skip
    joined = []
    for name, parts in splits.together.items():
        for rung, seed in dict.fromkeys((run.rung, run.seed) for run in runs):
            found = [
                run for part in parts for run in runs if (run.rung, run.seed, run.split) == (rung, seed, part)
            ]
            if len(found) == len(parts):
                joined.append(_join(name, found))
    return joined + runs


def measure(counts: Sequence[PatchCounts]) -> dict[str, float | None]:
    """Every metric of some patches together, by name; None where one is not defined."""
    total = counts[0].filled(np.sum([patch.vector() for patch in counts], axis=0))
    pixels, scores = total.pixels, total.exact
    best = pixels.best_threshold
    restated = restate_scores(scores, PREVALENCE)
    recall_by_size = {f"recall_{size}": share for size, share in total.landslides.recall_by_size.items()}
    return {
        "f1": scores.f1,
        "best_f1": None if best is None else pixels.scores(best).f1,
        "best_threshold": best,
        "f1_beyond_1px": total.beyond_1px.f1,
        "f1_beyond_2px": total.beyond_2px.f1,
        "boundary_iou": total.boundary.iou,
        "false_alarms_per_km2": _score_of(total.beyond_3px, "false_alarms_per_km2"),
        "area_ratio": scores.area_ratio,
        "average_precision": pixels.average_precision,
        "precision": scores.precision,
        "recall": scores.recall,
        "iou": scores.iou,
        "accuracy": scores.accuracy,
        "prevalence": scores.prevalence,
        **recall_by_size,
        **total.landslides.summary(),
        "restated_precision": restated.precision,
        "restated_f1": restated.f1,
    }


def compare(
    ours: Sequence[Run], theirs: Sequence[Run], metric: str, *, resamples: int = 2000
) -> PairedDifference | None:
    """How sure a difference is, by the patches; of several seeds the counts are added up patch by patch.

    None where the score is not defined.
    """
    try:
        return paired_bootstrap(
            _by_patch(ours, PAIRED[metric]),
            _by_patch(theirs, PAIRED[metric]),
            lambda counts: _score_of(counts, metric),
            resamples=resamples,
        )
    except UsageError:
        return None


def _score_of(counts: Scores | BoundaryCounts, metric: str) -> float | None:
    """A paired metric of the counts that PAIRED takes for it."""
    if isinstance(counts, BoundaryCounts):
        return counts.iou
    if metric != "false_alarms_per_km2":
        return counts.f1
    clear_px = counts.fp + counts.tn
    return counts.fp / (clear_px * PIXEL_M2 / 1e6) if clear_px else None


def _by_patch(
    runs: Sequence[Run], take: Callable[[PatchCounts], Scores | BoundaryCounts]
) -> list[Scores | BoundaryCounts]:
    """What is taken of each patch's counts, added up over the runs."""
    columns = zip(*(run.counts for run in runs), strict=True)
    parts = [[take(counts) for counts in column] for column in columns]
    return [
        first.filled(np.sum([part.vector() for part in (first, *more)], axis=0)) for first, *more in parts
    ]


def _join(name: str, runs: Sequence[Run]) -> Run:
    return Run(
        rung=runs[0].rung,
        split=name,
        seed=runs[0].seed,
        thresholds=tuple(threshold for run in runs for threshold in run.thresholds),
        patches=tuple(patch for run in runs for patch in run.patches),
        counts=tuple(counts for run in runs for counts in run.counts),
    )


def _by_stratum(run: Run) -> dict[str, list[PatchCounts]]:
    """Counts of all patches, and of each stratum if there are several."""
    strata: dict[str, list[PatchCounts]] = {}
    for patch, counts in zip(run.patches, run.counts, strict=True):
        strata.setdefault(patch.stratum, []).append(counts)
    return {ALL: list(run.counts), **(dict(sorted(strata.items())) if len(strata) > 1 else {})}


def _section(name: str, runs: Sequence[Run], resamples: int) -> str:
    """Heading, tables and intervals of one split."""
    by_rung = {
        rung: [run for run in runs if run.rung == rung] for rung in dict.fromkeys(r.rung for r in runs)
    }
    rows = {rung: [measure(run.counts) for run in some] for rung, some in by_rung.items()}
    first = next(iter(rows.values()))[0]
    thresholds = {
        rung: ", ".join(dict.fromkeys(f"{t:.2f}" for t in some[0].thresholds))
        for rung, some in by_rung.items()
    }
    main = [
        [rung, str(len(some)), thresholds[rung], *(_cell(some, column) for column in MAIN_COLUMNS)]
        for rung, some in rows.items()
    ]
    detail = [[rung, *(_cell(some, column) for column in DETAIL_COLUMNS)] for rung, some in rows.items()]
    parts = [
        f"### {name}\n\n{len(runs[0].patches)} patches, {_share(first['prevalence'])} landslide, "
        f"{first['labelled']:.0f} landslides of 400 m² or more.",
        markdown_table(["rung", "seeds", "threshold", *MAIN_COLUMNS.values()], main),
        markdown_table(["rung", *DETAIL_COLUMNS.values()], detail),
        *_strata_table(by_rung),
        *_paired_table(by_rung, resamples),
    ]
    return "\n\n".join(parts)


def _strata_table(by_rung: dict[str, list[Run]]) -> list[str]:
    strata = {rung: [_by_stratum(run) for run in runs] for rung, runs in by_rung.items()}
    names = [name for name in next(iter(strata.values()))[0] if name != ALL]
    if not names:
        return []
    columns = {"f1": "F1", "f1_beyond_2px": "±2 px", "false_alarms_per_km2": "px/km²"}
    rows = []
    for rung, of_seeds in strata.items():
        measured = {name: [measure(of_seed[name]) for of_seed in of_seeds] for name in names}
        rows.append([rung, *(_cell(measured[name], column) for name in names for column in columns)])
    head = ["rung", *(f"{name}: {title}" for name in names for title in columns.values())]
    return [markdown_table(head, rows)]


def _paired_table(by_rung: dict[str, list[Run]], resamples: int) -> list[str]:
    """Every other rung minus each rival."""
    rows = []
    for rung, runs in by_rung.items():
        for rival in RIVALS:
            if rival not in by_rung or rung in RIVALS[RIVALS.index(rival) :]:
                continue
            differences = (compare(runs, by_rung[rival], metric, resamples=resamples) for metric in PAIRED)
            pairs = zip(PAIRED, differences, strict=True)
            rows.append([f"{rung} - {rival}", *(_interval(metric, found) for metric, found in pairs)])
    titles = [MAIN_COLUMNS[metric] for metric in PAIRED]
    return [markdown_table(["difference, 95 % interval", *titles], rows)] if rows else []


def _csv_rows(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "split": run.split,
            "rung": run.rung,
            "seed": run.seed,
            "stratum": stratum,
            "patches": len(counts),
            "threshold": " ".join(f"{threshold:g}" for threshold in dict.fromkeys(run.thresholds)),
            **{name: None if value is None else round(value, 6) for name, value in measure(counts).items()},
        }
        for stratum, counts in _by_stratum(run).items()
    ]


def _cell(rows: Sequence[dict[str, float | None]], column: str) -> str:
    """Mean over seeds, and the standard deviation where there are several."""
    values = [value for row in rows if (value := row[column]) is not None]
    if not values:
        return "-"
    text = _number(column, float(np.mean(values)))
    return f"{text} ± {_number(column, float(np.std(values, ddof=1)))}" if len(values) > 1 else text


def _interval(metric: str, found: PairedDifference | None) -> str:
    if found is None:
        return "-"
    value, low, high = (_number(metric, bound, sign="+") for bound in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def _number(column: str, value: float, *, sign: str = "") -> str:
    return format(value, f"{sign}.0f" if column == "false_alarms_per_km2" else f"{sign}.3f")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}".replace("%", " %")
