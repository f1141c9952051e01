"""What was counted of a run or of patches in, one report and its files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd

from coseis.errors import InputRefusedError
from coseis.evaluation.assessment import Assessment, summarize, summarize_calibration
from coseis.evaluation.figure import Panel, draw_outcomes
from coseis.evaluation.outcomes import write_outcomes
from coseis.evaluation.sweep import ThresholdRow, compare_rules, sweep_thresholds, write_sweep
from coseis.types import Value

REPORT, SWEEP, FIGURE, POLYGONS = "evaluation.json", "sweep.csv", "outcomes.png", "outcomes.gpkg"
MOST_PANELS = 24
"""Patches in the figure: those with the lowest F1, for a number is not to be trusted before they are seen."""


@dataclass(frozen=True)
class Assessed:
    """A run or a folder of patches, compared with its labels."""

    source: str
    """Where the map comes from."""
    threshold: float
    """Least probability that counts as landslide."""
    pixel_m2: float
    """Area of a pixel, m2."""
    parts: Mapping[str, Assessment]
    """Counts by patch; of a run there is one."""
    panels: Mapping[str, Panel]
    """Pictures of the same parts."""
    outcomes: Sequence[Mapping[str, gpd.GeoDataFrame]]
    """True, false and missed polygons, see `outcomes.merge_outcomes`."""

    @property
    def total(self) -> Assessment:
        """Counts of all parts."""
        return sum(self.parts.values(), Assessment())


class EvaluationReport(Value):
    """evaluation.json: every score, and the counts from which they and any others follow."""

    source: str
    threshold: float
    pixel_m2: float
    metrics: dict[str, Any]
    """At the threshold, over all parts; see `assessment.summarize`."""
    rules: tuple[ThresholdRow, ...]
    """The threshold in use beside best F1, Otsu and isodata."""
    sweep: tuple[ThresholdRow, ...]
    calibration: dict[str, Any] | None
    """See `assessment.summarize_calibration`."""
    patches: dict[str, dict[str, Any]]
    """Metrics of each part."""
    counts: dict[str, Assessment]
    """Counts of each part: two reports of the same patches can be compared by `paired_bootstrap`."""


def report_assessed(assessed: Assessed, *, prevalence: float = 0.05) -> EvaluationReport:
    """Scores what was counted.

    Args:
        assessed: Counts at a threshold.
        prevalence: Share of landslides that scores and calibration are restated for.

    Raises:
        UsageError: The prevalence is no share between 0 and 1.
    """
    threshold, pixel_m2 = assessed.threshold, assessed.pixel_m2
    total = assessed.total

    def metrics_of(part: Assessment) -> dict[str, Any]:
        return summarize(part, threshold=threshold, pixel_m2=pixel_m2, prevalence=prevalence)

    return EvaluationReport(
        source=assessed.source,
        threshold=threshold,
        pixel_m2=pixel_m2,
        metrics=metrics_of(total),
        rules=compare_rules(total.pixels, threshold, pixel_m2=pixel_m2),
        sweep=sweep_thresholds(total.pixels, pixel_m2=pixel_m2),
        calibration=summarize_calibration(total.pixels, prevalence=prevalence),
        patches={name: metrics_of(part) for name, part in assessed.parts.items()},
        counts=dict(assessed.parts),
    )


def write_report(report: EvaluationReport, assessed: Assessed, folder: str | Path) -> tuple[Path, ...]:
    """Writes evaluation.json, sweep.csv, outcomes.png and outcomes.gpkg, replacing those of before.

    Returns:
        The files.

    Raises:
        InputRefusedError: The folder cannot be made or written to.
    """
    folder = Path(folder)
    paths = tuple(folder / name for name in (REPORT, SWEEP, FIGURE, POLYGONS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(report.model_dump_json(indent=1), encoding="utf-8")
        write_sweep((*report.rules, *report.sweep), paths[1])
        paths[2].write_bytes(draw_outcomes(_worst_panels(report, assessed), title=_title(report)))
    except OSError as error:
        raise InputRefusedError(f"{folder} cannot be written ({error.strerror})") from error
    write_outcomes(assessed.outcomes, paths[3])
    return paths


def _worst_panels(report: EvaluationReport, assessed: Assessed) -> list[Panel]:
    def f1_of(name: str) -> float:
        f1 = report.patches[name]["f1"]
        return 1.0 if f1 is None else float(f1)  # nothing labelled and nothing predicted is right

    worst = sorted(assessed.panels, key=f1_of)[:MOST_PANELS]
    return [assessed.panels[name] for name in worst]


def _title(report: EvaluationReport) -> str:
    f1 = report.metrics["f1"]
    shown = "undefined" if f1 is None else f"{f1:.3f}"
    worst = f", the {MOST_PANELS} worst of {len(report.patches)}" if len(report.patches) > MOST_PANELS else ""
    return f"Probability >= {report.threshold:g}: F1 {shown}{worst}"
