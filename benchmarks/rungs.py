"""The patches that a split may learn from in, a rival's predictor with its threshold out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier

from coseis.errors import UsageError
from coseis.training.patches import Patch
from coseis.types import CODE_SCALE, LABEL_IGNORE
from ladder_splits import TrainingPart

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Predictor = Callable[[Patch], FloatArray]
"""From a patch to its probabilities, float32 (y, x) in [0, 1]; the patch's mask is not to be looked at."""
GREY_LEVELS = 255
THRESHOLDS = np.arange(1, CODE_SCALE // 2) / (CODE_SCALE // 2)
"""All of two decimals, 0 and 1 left out."""


@dataclass(frozen=True)
class Fitted:
    """What a rung brings to the test."""

    predict: Predictor
    threshold: float
    """Least probability that counts, of two decimals, chosen without the test patches."""
    notes: Mapping[str, float | str] = field(default_factory=dict)
    """What fitting found, for the record: iterations, epochs, thresholds of its own."""


class Rung(Protocol):
    """A rival on the ladder; a network is one too."""

    @property
    def name(self) -> str:
        """In tables and file names."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Whatever changes its result, for JSON, with a version of its code: other settings are run again."""
        ...

    @property
    def takes_also(self) -> bool:
        """Whether it learns from a split's `also` groups too."""
        ...

    @property
    def repeats(self) -> int:
        """Seeds worth running; 1 where chance plays no part or is not asked about."""
        ...

    def fit(self, part: TrainingPart, seed: int) -> Fitted:
        """Learns and chooses its threshold from the part alone."""
        ...


@dataclass(frozen=True)
class RatioRule:
    """red / (green + 1) > t on 8-bit values, t being best on the training part: bare soil is red, forest not.

    Its score is a logistic curve of log(ratio / t): 0.5 at t, and steep enough that a code is 0.25 % of t.
    """

    name: str = "rule"
    takes_also: bool = False
    repeats: int = 1
    steepness: float = 8.0
    ratios: tuple[float, float, float] = (0.5, 2.5, 0.01)
    """The t that are tried: first, last, step."""

    @property
    def settings(self) -> dict[str, Any]:
        """See `Rung`."""
        return {"version": 2, "steepness": self.steepness, "ratios": self.ratios}

    def fit(self, part: TrainingPart, seed: int) -> Fitted:
        """The t with the highest F1 on the training patches, the mean over their groups."""
        first, last, step = self.ratios
        tried = np.arange(first, last + step / 2, step)
        scores = [
            f1_by_threshold(
                np.concatenate([_ratio(patch)[_known(patch)] for patch in patches]),
                _truth(patches),
                tried,
                prevalence=part.prevalence,
            )
            for patches in _by_group(part.patches).values()
        ]
        best = float(tried[np.argmax(np.mean(scores, axis=0))])

        def predict(patch: Patch) -> FloatArray:
            relative = np.nan_to_num(_ratio(patch) / best)
            with np.errstate(divide="ignore"):
                return np.asarray(1 / (1 + relative**-self.steepness), dtype=np.float32)

        return Fitted(predict, 0.5, {"ratio": round(best, 4)})


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees on a pixel's colour and on means and deviations around it, at several scales.

    Number of trees and threshold are those with the highest F1, the mean over the training groups, when
    each group is predicted by trees that grew without it: the number at the groups' own shares of
    landslides, the threshold at the share that is expected.
    """

    name: str = "trees"
    takes_also: bool = False
    repeats: int = 1
    sigmas_px: tuple[float, ...] = (1, 2, 4, 8, 16)
    training_px: int = 200_000
    """Pixels drawn to grow trees on, from each patch its share of the area."""
    iterations: int = 200
    """The most trees; left-out groups are found best by 20 to 190 of them."""
    step: int = 10
    """Numbers of trees that are judged are multiples of it."""
    learning_rate: float = 0.05
    leaves: int = 31
    leaf_px: int = 200
    """Fewest pixels of a leaf: neighbours are alike, so that 20, the usual number, may be one slope."""
    feature_share: float = 0.3
    """Of the features, that each split may choose from."""
    l2: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """See `Rung`."""
        settings = dataclasses.asdict(self)
        for name in ("name", "takes_also", "repeats"):
            del settings[name]
        return {"version": 3, **settings}

    def fit(self, part: TrainingPart, seed: int) -> Fitted:
        """Grows trees once without each group, to choose, and once on all.

        Raises:
            UsageError: There is only one group.
        """
        groups = _by_group(part.patches)
        if len(groups) < 2:
            raise UsageError(f"trees are chosen on left-out groups; {', '.join(groups)} is only one")
        features, truth, group = self._draw(groups, np.random.default_rng(seed))
        curves, restated = [], []
        for number in range(len(groups)):
            trees = self._grow(features[group != number], truth[group != number], self.iterations, seed)
            left_out = features[group == number], truth[group == number]
            curves.append(self._f1_of_stages(trees, *left_out, None))
            restated.append(self._f1_of_stages(trees, *left_out, part.prevalence))
        mean = np.mean(curves, axis=0)
        stage = int(np.argmax(mean.max(axis=1)))
        place = np.argmax(np.mean(restated, axis=0)[stage])
        iterations = (stage + 1) * self.step
        trees = self._grow(features, truth, iterations, seed)
        notes = {"iterations": iterations, "left_out_f1": round(float(mean.max()), 4)}
        return Fitted(lambda patch: self._predict(trees, patch), float(THRESHOLDS[place]), notes)

    def _draw(
        self, groups: Mapping[str, Sequence[Patch]], random: np.random.Generator
    ) -> tuple[FloatArray, BoolArray, npt.NDArray[np.int64]]:
        """Features float32 (pixel, feature), truth bool (pixel,) and number of the group int64 (pixel,)."""
        known_px = sum(int(_known(patch).sum()) for patches in groups.values() for patch in patches)
        share = min(1.0, self.training_px / max(known_px, 1))
        features, truth, group = [], [], []
        for number, patches in enumerate(groups.values()):
            for patch in patches:
                places = np.flatnonzero(_known(patch))
                places = random.choice(places, round(len(places) * share), replace=False)
                of_patch = pixel_features(patch, self.sigmas_px)
                features.append(of_patch.reshape(-1, of_patch.shape[-1])[places])
                truth.append(patch.mask.ravel()[places] > 0)
                group.append(np.full(len(places), number))
        return np.concatenate(features), np.concatenate(truth), np.concatenate(group)

    def _grow(
        self, features: FloatArray, truth: BoolArray, iterations: int, seed: int
    ) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(
            max_iter=iterations,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.leaf_px,
            max_features=self.feature_share,
            l2_regularization=self.l2,
            early_stopping=False,
            random_state=seed,
        ).fit(features, truth)

    def _f1_of_stages(
        self,
        trees: HistGradientBoostingClassifier,
        features: FloatArray,
        truth: BoolArray,
        prevalence: float | None,
    ) -> list[npt.NDArray[np.float64]]:
        """F1 at each of THRESHOLDS, after each `step` trees."""
        return [
            f1_by_threshold(probability[:, 1], truth, THRESHOLDS, prevalence=prevalence)
            for number, probability in enumerate(trees.staged_predict_proba(features), 1)
            if number % self.step == 0
        ]

    def _predict(self, trees: HistGradientBoostingClassifier, patch: Patch) -> FloatArray:
        features = pixel_features(patch, self.sigmas_px)
        probability = trees.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1]
        return np.asarray(probability.reshape(patch.mask.shape), dtype=np.float32)


def pixel_features(patch: Patch, sigmas_px: Sequence[float]) -> FloatArray:
    """Colours, ratios of colours, and Gaussian means and standard deviations; float32 (y, x, feature).

    Colours are in units of the scene's 2-98 % range from its median, as the networks see them: without,
    trees of other events find less on Iburi (F1 0.80 against 0.85 at best); on its own tiles nothing changes.
    Ratios are of plain colours. Missing pixels are left out of the sums around them and are NaN themselves,
    which the trees understand.
    """
    intensity = patch.intensity
    valid = ~np.asarray(np.isnan(intensity).any(axis=-1))
    low, median, high = patch.percentiles
    centre, spread = median, np.maximum(high - low, np.float32(1 / GREY_LEVELS))
    filled = np.where(valid[..., None], intensity, np.float32(0))
    features = [(intensity - centre) / spread, _ratios(intensity)]
    for sigma in sigmas_px:
        weight = np.maximum(ndimage.gaussian_filter(valid.astype(np.float32), sigma), 1e-6)[..., None]
        axes = (sigma, sigma, 0)
        mean = ndimage.gaussian_filter(filled, axes) / weight
        square = ndimage.gaussian_filter(filled**2, axes) / weight
        deviation = np.sqrt(np.maximum(square - mean**2, 0))
        features += [(mean - centre) / spread, deviation / spread, _ratios(mean)]
    return np.concatenate(features, axis=-1, dtype=np.float32)


def f1_by_threshold(
    values: npt.NDArray[np.floating],
    truth: BoolArray,
    thresholds: npt.NDArray[np.float64],
    *,
    prevalence: float | None = None,
) -> npt.NDArray[np.float64]:
    """F1 of values at or above each of some rising thresholds, float64 (threshold,).

    Args:
        values: float (pixel,).
        truth: bool (pixel,).
        thresholds: float64 (threshold,).
        prevalence: Share of landslides that the pixels are restated at; default: their own.
    """
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
    hits, alarms = (
        np.histogram(values[chosen], edges)[0][::-1].cumsum()[::-1][1:] for chosen in (truth, ~truth)
    )
    prevalence = prevalence or np.count_nonzero(truth) / len(truth)
    recall = prevalence * hits / max(np.count_nonzero(truth), 1)
    false = (1 - prevalence) * alarms / max(np.count_nonzero(~truth), 1)
    return np.asarray(2 * recall / (recall + false + prevalence), dtype=np.float64)


def _ratios(colours: FloatArray) -> FloatArray:
    """Red and blue over green, float32 (y, x, 2); one grey level keeps the darkest from dividing by 0."""
    green = colours[..., 1] + np.float32(1 / GREY_LEVELS)
    return np.stack([colours[..., 0] / green, colours[..., 2] / green], axis=-1)


def _ratio(patch: Patch) -> FloatArray:
    """The rule's red / (green + 1) on 8-bit values, float32 (y, x)."""
    return _ratios(patch.intensity)[..., 0]


def _known(patch: Patch) -> BoolArray:
    return np.asarray(patch.mask != LABEL_IGNORE)


def _truth(patches: Sequence[Patch]) -> BoolArray:
    return np.concatenate([patch.mask[_known(patch)] > 0 for patch in patches])


def _by_group(patches: Sequence[Patch]) -> dict[str, list[Patch]]:
    groups: dict[str, list[Patch]] = {}
    for patch in patches:
        groups.setdefault(patch.group, []).append(patch)
    return dict(sorted(groups.items()))
