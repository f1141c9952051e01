"""The file of frozen splits and a data folder in, the patches to learn from and to be scored on out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from coseis.errors import UsageError
from coseis.training.patches import Patch, read_hrgldd, read_landslide4sense, read_tiles
from coseis.types import LABEL_IGNORE, Value

TILES = Path("iburi", "planetscope", "labelled")
SCENE = Path("iburi", "planetscope", "scene_post.tif")
HRGLDD = Path("hrgldd", "planetscope_rgb_128.npz")
LANDSLIDE4SENSE = Path("landslide4sense", "train_rgb_128.npz")
SYNTHETIC = "synthetic"
"""The one group that no file holds: a rung that learns from it makes it."""
PIXEL_M2 = 9.0
"""Of everything that is scored: PlanetScope at 3 m."""


class Split(Value):
    """One way to divide the groups; see splits.yaml."""

    name: str
    test: tuple[str, ...] = Field(min_length=1)
    train: tuple[str, ...] = Field(min_length=1)
    also: tuple[str, ...] = ()
    prevalence: float | None = Field(None, gt=0, lt=1)
    repeats: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        shared = set(self.test) & {*self.train, *self.also}
        if shared:
            raise ValueError(f"split {self.name} trains and tests on {', '.join(sorted(shared))}")
        return self


class Tiles(Value):
    """The labelled tiles: which stay together, and what kind of ground each shows."""

    groups: tuple[tuple[str, ...], ...]
    strata: dict[str, tuple[str, ...]]


class Blocks(Value):
    """The event blocks of HR-GLDD that are used."""

    blocks: tuple[int, ...]


class Splits(Value):
    """All of splits.yaml."""

    tiles: Tiles
    hrgldd: Blocks
    splits: tuple[Split, ...]
    together: dict[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        names = [split.name for split in self.splits]
        for name, parts in self.together.items():
            if name in names or not set(parts) <= set(names):
                raise ValueError(f"together: {name} of {', '.join(parts)}; expected splits among {names}")
        return self

    def stratum_of(self, patch: Patch) -> str:
        """What kind of ground a tile shows; of other patches their group."""
        if not patch.group.startswith("tiles-"):
            return patch.group
        strata = (stratum for stratum, names in self.tiles.strata.items() if patch.name in names)
        return next(strata, patch.group)


@dataclass(frozen=True)
class TrainingPart:
    """What one rung may look at in one split before it is tested."""

    patches: tuple[Patch, ...]
    """Of the split's `train` groups."""
    also: tuple[str, ...]
    """Further groups, for `read_groups`, and maybe SYNTHETIC."""
    folder: Path
    """The data folder."""
    splits: Splits
    prevalence: float | None
    """Share of landslides that is expected on the test ground; None: that of the training groups."""

    @property
    def groups(self) -> list[str]:
        """The groups of the patches, sorted: what an inner cross-validation leaves out in turn."""
        return sorted({patch.group for patch in self.patches})


def load_splits(path: Path) -> Splits:
    """Reads and checks the file of splits.

    Raises:
        UsageError: Not readable, unknown keys, or a group on both sides of a split.
    """
    try:
        return Splits.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UsageError(f"{path} is no file of splits: {error}") from error


def read_groups(folder: Path, splits: Splits, groups: Iterable[str]) -> list[Patch]:
    """Reads the patches of some groups, in the order of the groups and of their names.

    A pixel without any value has no known truth either: no map would show it.

    Args:
        folder: The data folder.
        splits: Which tiles stay together and which blocks are used.
        groups: Names of groups that files hold.

    Raises:
        UsageError: A group is in none of the sets, or its set cannot be read.
    """
    groups = list(groups)
    patches: list[Patch] = []
    if any(group.startswith("tiles-") for group in groups):
        patches += read_tiles(folder / TILES, scene=folder / SCENE, groups=splits.tiles.groups)
    if any(group.startswith("hrgldd-") for group in groups):
        patches += _read_blocks(folder / HRGLDD, splits.hrgldd.blocks)
    if "landslide4sense" in groups:
        patches += read_landslide4sense(folder / LANDSLIDE4SENSE)
    found = {patch.group for patch in patches}
    missing = [group for group in groups if group not in found]
    if missing:
        raise UsageError(
            f"{folder} holds no patches of {', '.join(missing)}; it holds {', '.join(sorted(found))}"
        )
    chosen = (patch for patch in patches if patch.group in groups)
    return [_without_missing(patch) for patch in sorted(chosen, key=lambda patch: groups.index(patch.group))]


def digest_groups(folder: Path, groups: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every file that holds patches of some groups, by its path in the data folder."""
    paths: set[Path] = set()
    if any(group.startswith("tiles-") for group in groups):
        paths |= {SCENE, *(path.relative_to(folder) for path in (folder / TILES).glob("*.tif"))}
    if any(group.startswith("hrgldd-") for group in groups):
        paths.add(HRGLDD)
    if "landslide4sense" in groups:
        paths.add(LANDSLIDE4SENSE)
    return {
        path.as_posix(): hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in sorted(paths)
    }


def _read_blocks(path: Path, blocks: Sequence[int]) -> list[Patch]:
    wanted = {f"hrgldd-{block}" for block in blocks}
    return [patch for patch in read_hrgldd(path, exclude=()) if patch.group in wanted]


def _without_missing(patch: Patch) -> Patch:
    missing = np.isnan(patch.intensity).any(axis=-1)
    mask = np.where(missing, np.uint8(LABEL_IGNORE), patch.mask)
    return dataclasses.replace(patch, mask=mask)
