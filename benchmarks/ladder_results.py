"""One rung on one split with one seed in, its result out: what was counted of each patch, and the maps."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from coseis.errors import InputRefusedError
from coseis.evaluation import (
    Additive,
    Assessment,
    BoundaryCounts,
    CodeCounts,
    LandslideCounts,
    Scores,
    assess_patch,
)
from coseis.training.patches import Patch
from coseis.types import CODE_SCALE, Value
from ladder_splits import PIXEL_M2, Split, Splits, TrainingPart, digest_groups, read_groups
from machine import describe_commit, list_versions
from rungs import Rung

UintArray = npt.NDArray[np.uint8]
VERSION = 1
"""Of what a result means; another one makes all of them run again."""
PACKAGES = ("coseis", "numpy", "scipy", "scikit-learn", "tensorflow", "keras")


class PatchCounts(Additive):
    """All that is counted of a patch, that at a threshold of the split's own included: splits add up."""

    pixels: CodeCounts = CodeCounts()
    exact: Scores = Scores()
    beyond_1px: Scores = Scores()
    """Pixels within 1 px of a label's border not counted."""
    beyond_2px: Scores = Scores()
    beyond_3px: Scores = Scores()
    """Its false alarms are those that no loose outline explains."""
    boundary: BoundaryCounts = BoundaryCounts()
    landslides: LandslideCounts = LandslideCounts()


class PatchResult(Value):
    """One test patch; the counts by code without those that are 0."""

    name: str
    group: str
    stratum: str
    codes: tuple[int, ...]
    """By pairs: how far on in the flattened counts, and the count there."""
    boundary: BoundaryCounts
    landslides: LandslideCounts

    def counts(self, threshold: float) -> PatchCounts:
        """Counts at the threshold that outlines and landslides were counted at."""
        gaps, values = np.array(self.codes, dtype=np.int64).reshape(-1, 2).T
        vector = np.zeros_like(CodeCounts().vector())
        vector[np.cumsum(gaps)] = values
        pixels = CodeCounts().filled(vector)
        exact, beyond_1px, beyond_2px, beyond_3px = (
            pixels.scores(threshold, ignore_px=reach_px) for reach_px in range(4)
        )
        return PatchCounts(
            pixels=pixels,
            exact=exact,
            beyond_1px=beyond_1px,
            beyond_2px=beyond_2px,
            beyond_3px=beyond_3px,
            boundary=self.boundary,
            landslides=self.landslides,
        )


class Result(Value):
    """One rung on one split with one seed."""

    rung: str
    split: str
    seed: int
    key: str
    """Digest of all that the result depends on."""
    settings: dict[str, Any]
    threshold: float
    notes: dict[str, float | str]
    seconds: dict[str, float]
    commit: str | None
    machine: str
    versions: dict[str, str]
    patches: tuple[PatchResult, ...]

    @cached_property
    def counts(self) -> list[PatchCounts]:
        """Of each patch at the result's threshold."""
        return [patch.counts(self.threshold) for patch in self.patches]


def result_path(folder: Path, rung: str, split: str, seed: int) -> Path:
    """Where a result lies; its maps lie beside it as .npz."""
    return folder / f"{rung}.{split}.{seed}.json"


def result_key(rung: Rung, split: Split, seed: int, digests: Mapping[str, str]) -> str:
    """Digest of rung, split, seed and files: equal keys, equal results."""
    parts = {
        "version": VERSION,
        "rung": rung.name,
        "settings": rung.settings,
        "split": split.model_dump(
            include={"test", "train", "prevalence"} | ({"also"} if rung.takes_also else set())
        ),
        "seed": seed,
        "files": digests,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def groups_of(rung: Rung, split: Split) -> list[str]:
    """All groups that a rung sees in a split."""
    return [*split.test, *split.train, *(split.also if rung.takes_also else ())]


def read_result(path: Path) -> Result | None:
    """A result, or None where there is none yet.

    Raises:
        InputRefusedError: The file is of another layout.
    """
    try:
        return Result.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValidationError as error:
        raise InputRefusedError(
            f"{path} is no result of this ladder; remove it to run it again: {error}"
        ) from error


def write_result(result: Result, path: Path) -> None:
    """Writes a line a patch, so that a diff is readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = result.model_dump(mode="json", exclude={"patches"})
    lines = ",\n".join(json.dumps(patch.model_dump(mode="json")) for patch in result.patches)
    text = json.dumps(head, indent=1)[:-2] + f',\n "patches": [\n{lines}\n]\n}}\n'
    path.write_text(text, encoding="utf-8")


def run_rung(
    rung: Rung, split: Split, seed: int, *, data: Path, splits: Splits, key: str
) -> tuple[Result, dict[str, UintArray]]:
    """Fits a rung on a split's training part and counts its test patches.

    Returns:
        The result, and the probability codes uint8 (y, x) of each test patch by group and name.

    Raises:
        UsageError: The data folder lacks a group, or the rung cannot learn from the part.
    """
    also = split.also if rung.takes_also else ()
    part = TrainingPart(tuple(read_groups(data, splits, split.train)), also, data, splits, split.prevalence)
    started = time.perf_counter()
    fitted = rung.fit(part, seed)
    fit_s = time.perf_counter() - started
    tests = read_groups(data, splits, split.test)
    started = time.perf_counter()
    maps = {patch_key(patch): probability_codes(fitted.predict(patch), patch) for patch in tests}
    predict_s = time.perf_counter() - started
    result = Result(
        rung=rung.name,
        split=split.name,
        seed=seed,
        key=key,
        settings=json.loads(json.dumps(rung.settings)),
        threshold=fitted.threshold,
        notes=dict(fitted.notes),
        seconds={"fit": round(fit_s, 2), "predict": round(predict_s, 2)},
        commit=describe_commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        versions=list_versions(PACKAGES),
        patches=count_maps(tests, maps, splits=splits, threshold=fitted.threshold),
    )
    return result, maps


def count_maps(
    patches: list[Patch], maps: Mapping[str, UintArray], *, splits: Splits, threshold: float
) -> tuple[PatchResult, ...]:
    """Counts maps, codes uint8 (y, x) by patch, at a threshold."""
    return tuple(
        _compact(
            patch,
            splits.stratum_of(patch),
            assess_patch(maps[patch_key(patch)], patch.mask, threshold=threshold, pixel_m2=PIXEL_M2),
        )
        for patch in patches
    )


def patch_key(patch: Patch) -> str:
    """Group and name: what tells a patch from all others."""
    return f"{patch.group}/{patch.name}"


def probability_codes(probability: npt.NDArray[np.float32], patch: Patch) -> UintArray:
    """Codes uint8 (y, x) of a rung's answer.

    Raises:
        ValueError: Not one probability a pixel: the rung is wrong, not its user.
    """
    if probability.shape != patch.mask.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(
            f"patch {patch_key(patch)}: the answer has shape {probability.shape}, from "
            f"{probability.min()} to {probability.max()}; expected {patch.mask.shape}, in [0, 1]"
        )
    return np.rint(probability * CODE_SCALE).astype(np.uint8)


def digests_of(rung: Rung, split: Split, data: Path) -> dict[str, str]:
    """SHA-256 of the files that a rung sees in a split."""
    return digest_groups(data, groups_of(rung, split))


def _compact(patch: Patch, stratum: str, assessment: Assessment) -> PatchResult:
    vector = assessment.pixels.vector()
    places = np.flatnonzero(vector)
    pairs = np.stack([np.diff(places, prepend=0), vector[places]], axis=1)
    return PatchResult(
        name=patch.name,
        group=patch.group,
        stratum=stratum,
        codes=tuple(pairs.ravel().tolist()),
        boundary=assessment.boundary,
        landslides=assessment.landslides,
    )
