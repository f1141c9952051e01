"""Codes and labels of a patch in, all counts that its metrics need, and the metrics of their sums, out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coseis.evaluation.additive import Additive
from coseis.evaluation.borders import BoundaryCounts, count_boundary
from coseis.evaluation.calibration import (
    CODE_PROBABILITY,
    brier_score,
    calibration_error,
    fit_temperature,
    reliability_curve,
    shift_prior,
    temper,
)
from coseis.evaluation.counts import CodeCounts, count_pixels, counted_pixels
from coseis.evaluation.landslides import LandslideCounts, count_landslides
from coseis.evaluation.scores import restate_scores
from coseis.types import CODE_SCALE, LABEL_IGNORE, least_code

UintArray = npt.NDArray[np.uint8]


class Assessment(Additive):
    """Everything that is counted of a patch or a map; sums over patches are as good as one large patch."""

    pixels: CodeCounts = CodeCounts()
    """For every threshold."""
    boundary: BoundaryCounts = BoundaryCounts()
    """At the threshold that was counted at."""
    landslides: LandslideCounts = LandslideCounts()
    """At the same."""


def assess_patch(
    codes: UintArray, truth: UintArray, *, threshold: float, pixel_m2: float, frame_px: int = 0
) -> Assessment:
    """Counts one patch.

    Args:
        codes: uint8 (y, x), round(200 p), 255 = not predicted.
        truth: uint8 (y, x), 0 background, LABEL_IGNORE where not known, others landslide.
        threshold: For outlines and landslides: least probability that counts.
        pixel_m2: Area of a pixel, m2.
        frame_px: Width of a frame that is not counted.
    """
    counted = counted_pixels(codes, truth, frame_px=frame_px)
    predicted = (codes >= least_code(threshold)) & (codes <= CODE_SCALE)
    landslide = (truth != 0) & (truth != LABEL_IGNORE)
    return Assessment(
        pixels=count_pixels(codes, truth, frame_px=frame_px),
        boundary=count_boundary(codes, truth, threshold=threshold, counted=counted),
        landslides=count_landslides(predicted, landslide, pixel_m2=pixel_m2, counted=counted),
    )


def summarize(
    assessment: Assessment, *, threshold: float, pixel_m2: float, prevalence: float = 0.05
) -> dict[str, Any]:
    """All metrics of a map at one threshold by name; None where one is not defined.

    Args:
        assessment: Counted at this threshold.
        threshold: Least probability that counts as landslide.
        pixel_m2: Area of a pixel, m2.
        prevalence: Share of landslides that scores are restated for.
    """
    pixels = assessment.pixels
    scores = pixels.scores(threshold)
    return {
        **scores.summary(),
        "f1_beyond_1px": pixels.scores(threshold, ignore_px=1).f1,
        "f1_beyond_2px": pixels.scores(threshold, ignore_px=2).f1,
        "boundary_iou": assessment.boundary.iou,
        "false_alarms_per_km2": pixels.false_alarms_per_km2(threshold, pixel_m2=pixel_m2),
        "average_precision": pixels.average_precision,
        "restated": restate_scores(scores, prevalence).model_dump(),
        "recall_by_size": assessment.landslides.recall_by_size,
        "landslides": assessment.landslides.summary(),
    }


def summarize_calibration(pixels: CodeCounts, *, prevalence: float = 0.05) -> dict[str, Any] | None:
    """How calibrated the probabilities are, as counted and at another prevalence; None with one class only.

    `temperature` is fitted on these very pixels: it says how far off they are, and corrects others.
    """
    counted_at = pixels.prevalence
    if not counted_at or counted_at == 1:
        return None
    temperature = fit_temperature(pixels)
    tempered = temper(temperature)
    rows: dict[str, Any] = {"prevalence": counted_at, "temperature": temperature}
    for name, table, share in (
        ("as_predicted", CODE_PROBABILITY, None),
        ("tempered", tempered, None),
        ("restated", CODE_PROBABILITY, prevalence),
        (
            "restated_tempered_and_shifted",
            shift_prior(tempered, from_prevalence=counted_at, to_prevalence=prevalence),
            prevalence,
        ),
    ):
        curve = reliability_curve(pixels, prevalence=share, probability=table)
        rows[name] = {
            "prevalence": counted_at if share is None else share,
            "calibration_error": calibration_error(curve),
            "brier": brier_score(pixels, prevalence=share, probability=table),
            "reliability": [part.model_dump() for part in curve],
        }
    return rows
