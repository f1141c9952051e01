"""Maps and labels in; counts that add up over patches and blocks, and every score of them, out."""

from coseis.evaluation.additive import Additive
from coseis.evaluation.areas import AreaEstimates, Estimate, estimate_areas
from coseis.evaluation.assessment import Assessment, assess_patch, summarize, summarize_calibration
from coseis.evaluation.borders import (
    REACH_PX,
    BoundaryCounts,
    border_zones,
    count_boundary,
)
from coseis.evaluation.calibration import (
    ReliabilityBin,
    brier_score,
    calibration_error,
    fit_temperature,
    reliability_curve,
    shift_prior,
    temper,
)
from coseis.evaluation.comparison import PairedDifference, paired_bootstrap, sum_strata
from coseis.evaluation.counts import CodeCounts, count_pixels, counted_pixels
from coseis.evaluation.figure import Panel, draw_outcomes
from coseis.evaluation.landslides import LandslideCounts, count_landslides, count_pairs, match_polygons
from coseis.evaluation.outcomes import (
    Outcome,
    merge_outcomes,
    outcome_of,
    trace_mask,
    trace_outcome,
    write_outcomes,
)
from coseis.evaluation.scores import RestatedScores, Scores, restate_scores, score
from coseis.evaluation.sweep import ThresholdRow, compare_rules, sweep_thresholds, write_sweep

__all__ = [
    "REACH_PX",
    "Additive",
    "AreaEstimates",
    "Assessment",
    "BoundaryCounts",
    "CodeCounts",
    "Estimate",
    "LandslideCounts",
    "Outcome",
    "PairedDifference",
    "Panel",
    "ReliabilityBin",
    "RestatedScores",
    "Scores",
    "ThresholdRow",
    "assess_patch",
    "border_zones",
    "brier_score",
    "calibration_error",
    "compare_rules",
    "count_boundary",
    "count_landslides",
    "count_pairs",
    "count_pixels",
    "counted_pixels",
    "draw_outcomes",
    "estimate_areas",
    "fit_temperature",
    "match_polygons",
    "merge_outcomes",
    "outcome_of",
    "paired_bootstrap",
    "reliability_curve",
    "restate_scores",
    "score",
    "shift_prior",
    "sum_strata",
    "summarize",
    "summarize_calibration",
    "sweep_thresholds",
    "temper",
    "trace_mask",
    "trace_outcome",
    "write_outcomes",
    "write_sweep",
]
