"""A run's report in, what a reader must know before trusting the map out: what is true of this run alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports are written with the page that shows them
    from coseis.report import RunReport

NAMED = 2
"""More items than these are only counted: run.json names them."""
NAME_LETTERS = 30
REASON_LETTERS = 70
LEAST_SHARE = 0.0005
"""Of the area: what is less rounds to 0.0 %."""


def caveats_of(report: RunReport, *, cut: int) -> list[str]:
    """What is missing, unsure or left out of a map, gravest first, in plain sentences.

    Args:
        report: Of the run.
        cut: Landslides of the event that touch the border of the area or of what was seen.
    """
    return [*_missing(report), *_before(report), *_scenes(report), *_left_out(report, cut)]


def percent(share: float) -> str:
    """A share as a reader sees it: 100 % only of all, 0 % only of nothing."""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def area_text(area_m2: float) -> str:
    """An area in the unit that suits it, two to four figures."""
    if area_m2 < 1e4:
        return f"{area_m2:,.0f} m²"
    if area_m2 < 1e6:
        return f"{area_m2 / 1e4:.1f} ha"
    return f"{area_m2 / 1e6:,.{2 if area_m2 < 1e8 else 0}f} km²"


def _missing(report: RunReport) -> Iterator[str]:
    """Ground that the map says nothing of."""
    failed = [lost for lost in report.failed if lost.tried]
    waiting = len(report.failed) - len(failed)
    shares = report.status_shares["post"]
    if waiting:
        share = percent(shares.get("not_computed", 0.0))
        yield f"Not computed yet: {share} of the area, {plural(waiting, 'chunk')}."
    if failed:
        share = percent(shares.get("failed", 0.0))
        reason = clip(failed[0].reason, REASON_LETTERS)
        chunks = plural(len(failed), "chunk")
        yield f"Failed: {share} of the area, {chunks}: {reason}."
    unseen = 1 - report.observed_share
    if unseen >= LEAST_SHARE:
        km2 = area_text(unseen * report.aoi_km2 * 1e6)
        yield (
            f"Not seen after the event: {percent(unseen)} of the area, {km2}. No outline there does not "
            "mean no landslide."
        )


def _before(report: RunReport) -> Iterator[str]:
    """What is not known of the ground before the event."""
    if "pre" not in report.status_shares:
        yield "No scene from before the event: old landslides and bare ground may be counted as new."
    elif unknown := report.changes["unknown"].count:
        yield f"Not seen before the event: the ground of {plural(unknown, 'landslide')}, which may be older."


def _scenes(report: RunReport) -> Iterator[str]:
    """Scenes that say less than they should."""
    if names := report.scenes_without_mask:
        yield (f"No cloud mask: {plural(len(names), 'scene')}{_named(names)}, whose clouds count as seen.")
    if report.coregistration and (names := report.coregistration.flagged):
        yield (
            f"Off their place: {plural(len(names), 'scene')} from before the event{_named(names)}. Old "
            "and new may be mixed up there."
        )
    if report.forced_resolution:
        yield "The model ran at a pixel size that it was not trained for."


def _left_out(report: RunReport, cut: int) -> Iterator[str]:
    """What the outlines leave out."""
    if cut:
        yield (
            f"Cut by cloud, missing ground or the border of the area: {plural(cut, 'landslide')}, larger "
            "than drawn."
        )
    terrain = report.terrain
    if terrain and terrain.flat_m2 and terrain.min_slope_deg is not None:
        flat = area_text(terrain.flat_m2)
        yield f"Left out: {flat} of ground flatter than {terrain.min_slope_deg:g}°, deposits among it."
    if report.edits and (judged := sum(report.edits.counts.values())):
        editors = clip(", ".join(report.edits.editors), REASON_LETTERS)
        yield f"Judged by {editors}: {plural(judged, 'landslide')}; the others are a model's alone."
    else:
        yield "Drawn by a model from satellite images, not checked on the ground."


def clip(text: str, letters: int) -> str:
    """A text of bounded length on one line: catalogs and files are quoted on the page."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= letters else f"{line[: letters - 1]}…"


def plural(count: int, noun: str) -> str:
    """A number and what is counted."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _named(names: Sequence[str]) -> str:
    """Names in brackets after a blank; nothing for more of them than help."""
    return f" ({', '.join(clip(name, NAME_LETTERS) for name in names)})" if len(names) <= NAMED else ""
