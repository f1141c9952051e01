"""Labelled sources in, what is trained on and what is kept for validation out, both checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.learn.config import ValidationConfig
from coseis.training.cubes import CubeSource
from coseis.training.patches import Patch
from coseis.training.sources import Source
from coseis.training.splits import SplitRule, split_source
from coseis.training.trainer import check_sources


@dataclass(frozen=True)
class Parts:
    """The sources of a training on both sides of its split."""

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    protocol: str
    """What the validation part is, for the model card; empty without one."""


def divide_sources(
    sources: Sequence[Source], wanted: ValidationConfig, *, card: ModelCard, seed: int
) -> Parts:
    """Keeps whole groups and a part of every other region from training.

    Args:
        sources: Regions and patches. A patch is too small to be split.
        wanted: Groups, and the rule that splits regions.
        card: Its halo is the gap within a region.
        seed: Of scattered blocks.

    Raises:
        UsageError: No such group, no region to split, or a part from which nothing could be learnt or chosen.
    """
    groups = sorted({source.group for source in sources})
    unknown = sorted(set(wanted.validation_groups) - set(groups))
    if unknown:
        raise UsageError(f"no group {', '.join(unknown)} to validate on; there are {', '.join(groups)}")
    train = [source for source in sources if source.group not in wanted.validation_groups]
    held = [source for source in sources if source.group in wanted.validation_groups]
    said = [f"groups {', '.join(wanted.validation_groups)}"] if held else []
    if wanted.split != "none":
        share, gap_px = wanted.validation_share, card.halo_px
        train, parts = _split_regions(train, wanted.split, share=share, gap_px=gap_px, seed=seed)
        held += parts
        side = "scattered blocks" if wanted.split == "blocks" else f"the {wanted.split}"
        said.append(f"{100 * share:g} % of each region ({side}), {gap_px} px off what was trained on")
    found = Parts(tuple(train), tuple(held), " and ".join(said))
    _check_parts(found, card)
    return found


def describe_groups(sources: Sequence[Source]) -> list[str]:
    """A line for each group: its name and what there is of it."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        groups.setdefault(source.group, []).append(source)
    lines = []
    for group, members in groups.items():
        known, landslide = _count_labels(members)
        kind = "patch" if isinstance(members[0], Patch) else "region"
        lines.append(f"{group}: {kind} x {len(members)}, {known} px labelled, {landslide} of them landslide")
    return lines


def _split_regions(
    sources: Sequence[Source], rule: SplitRule, *, share: float, gap_px: int, seed: int
) -> tuple[list[Source], list[Source]]:
    """Sources with the training part in place of each region, and the validation parts."""
    train: list[Source] = []
    held: list[Source] = []
    for source in sources:
        if isinstance(source, CubeSource):
            kept, apart = split_source(source, rule, share=share, gap_px=gap_px, seed=seed)
            train.append(kept)
            held.append(apart)
        else:
            train.append(source)
    if not held:
        raise UsageError(
            f"--split {rule} found no region to split; whole groups of patches are kept by "
            "--validation-groups"
        )
    return train, held


def _check_parts(parts: Parts, card: ModelCard) -> None:
    """Refuses what would fail or teach nothing after hours."""
    check_sources(parts.train, parts.validation, card)
    known, landslide = _count_labels(parts.train)
    if not landslide:
        raise UsageError(
            f"no landslide lies in what is to be trained on ({known} px labelled); are its labels, area and "
            "reach those of this event?"
        )
    for group in sorted({source.group for source in parts.validation}):
        known, landslide = _count_labels([part for part in parts.validation if part.group == group])
        if not 0 < landslide < known:
            raise UsageError(
                f"validation group {group} has {landslide} landslide px of {known} labelled; a threshold is "
                "chosen between landslides and background, so keep another group or a larger part"
            )


def _count_labels(sources: Sequence[Source]) -> tuple[int, int]:
    """Pixels with a known label, and how many of them are landslide."""
    cells = [source.cells() for source in sources]
    return sum(int(part.known.sum()) for part in cells), sum(int(part.landslide.sum()) for part in cells)
