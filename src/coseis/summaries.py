"""What a command has found goes in, the lines that it prints come out."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from coseis.errors import IncompleteError

if TYPE_CHECKING:
    from coseis.config import OutputConfig
    from coseis.edits import EditsReport
    from coseis.estimate import Estimate
    from coseis.evaluation.results import EvaluationReport
    from coseis.learn.learning import Learned
    from coseis.report import FailedChunk, RunReport
    from coseis.statistics.areas import Interval
    from coseis.statistics.summary import SizeStatistics, Statistics

MESSAGE_LETTERS = 3000
"""Longest message; what is left out is its middle, for a message ends with what to do."""
LISTED_EDITS = 10
"""Landslides that are named on the terminal on which mappers differ."""
LISTED_FAILURES = 10
"""Failed chunks that are named on the terminal; all are in run.json."""


def show_scores(report: "EvaluationReport") -> None:
    """Scores at the threshold in use; apart, what other thresholds would have given."""
    metrics = report.metrics
    restated = metrics["restated"]
    table = Table("score", "value", title=f"probability >= {report.threshold:g}")
    for name, value in (
        *((name, metrics[name]) for name in ("precision", "recall", "f1", "iou", "accuracy", "prevalence")),
        ("f1 beyond 1 px of borders", metrics["f1_beyond_1px"]),
        ("f1 beyond 2 px of borders", metrics["f1_beyond_2px"]),
        ("boundary IoU", metrics["boundary_iou"]),
        ("area ratio", metrics["area_ratio"]),
        ("average precision", metrics["average_precision"]),
        ("false alarms px/km2", metrics["false_alarms_per_km2"]),
        (f"f1 at {100 * restated['prevalence']:g} % prevalence", restated["f1"]),
        ("landslides found, IoU 0.5", metrics["landslides"]["iou50_recall"]),
        ("landslides right, IoU 0.5", metrics["landslides"]["iou50_precision"]),
        *((f"recall {size}", recall) for size, recall in metrics["recall_by_size"].items()),
    ):
        table.add_row(name, _written_score(value))
    Console().print(table)
    rules = Table("threshold", "value", "precision", "recall", "f1", "iou", "remark")
    for row in report.rules:
        scores = (row.threshold, row.precision, row.recall, row.f1, row.iou)
        rules.add_row(row.rule, *map(_written_score, scores), row.remark)
    Console().print(rules)


def _written_score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.0f}"


def show_training(learned: "Learned", out: str) -> None:
    """The last lines of a training."""
    epoch, scores = learned.epoch, learned.scores
    kept = f"epoch {int(epoch['epoch']) + 1} of {learned.epochs} is kept"
    threshold = f"threshold {learned.model.card.threshold:g}"
    if scores is None:
        click.echo(f"{kept}, the last, for nothing is kept for validation; {threshold} as it was")
    else:
        click.echo(
            f"{kept}: validation loss {epoch['val_loss']:.4f}; F1 {scores.f1 or 0:.4f}, precision "
            f"{scores.precision or 0:.4f}, recall {scores.recall or 0:.4f} at {threshold}, chosen there"
        )
    click.echo(f"{100 * learned.waiting:.1f} % of the time waiting for patches")
    out = out.rstrip("/")
    click.echo(f"model {out}, curves {out}/curves.png, rows {out}/history.csv and {out}/batches.csv")


def show_estimate(estimate: "Estimate") -> None:
    """What a run would do, line by line."""
    height, width = estimate.shape
    click.echo(
        f"{estimate.scenes} scenes, {estimate.aoi_km2:.1f} km2 on a grid of {height} x {width} px at "
        f"{estimate.resolution_m:g} m"
    )
    click.echo(f"{estimate.chunks} chunks of {estimate.chunk_px} px on {estimate.workers} workers")
    click.echo(f"to read: {estimate.bytes_to_read / 2**30:.2f} GiB of pixels, halos not counted")
    click.echo(f"memory: a worker needs at most {estimate.worker_bytes / 2**30:.1f} GiB, and has them")
    if estimate.rate is None or estimate.seconds is None:
        click.echo("time: not known, as no run here has measured this model on this device yet")
        return
    click.echo(
        f"time: {estimate.seconds:.0f} s to predict, at {estimate.rate.mpx_per_s:g} Mpx/s a worker, measured "
        f"on {estimate.rate.measured:%Y-%m-%d} ({estimate.rate.device}, {estimate.rate.precision})"
    )
    if estimate.cost is not None:
        click.echo(f"cost: {estimate.cost:.2f}")


def show_statistics(found: "Statistics") -> None:
    """Sizes, laws, density and agreement of an inventory, line by line."""
    sizes, density = found.sizes, found.density
    click.echo(
        f"{sizes.count} landslides; {sizes.complete_count} of {sizes.completeness_m2:g} m2 or more, "
        f"{sizes.total_m2 / 1e6:.3f} km2, the largest {sizes.largest_m2 or 0:.0f} m2"
    )
    if density and density.per_km2 is not None:
        click.echo(
            f"density {density.per_km2:.2f} on a km2, {100 * (density.area_share or 0):.2f} % of the ground, "
            f"on {density.observed_km2:.1f} km2 seen of {density.area_km2:.1f} km2"
        )
    rows = {
        "this inventory": sizes,
        **({"split": found.split.sizes} if found.split else {}),
        **found.variants,
    }
    if found.reference:
        rows["reference"] = found.reference
    table = Table("", "count", "tail exponent", "rollover m2", "magnitude: number", "tail", "area")
    for name, row in rows.items():
        table.add_row(name, *_size_cells(row))
    Console().print(table)
    if sizes.fit is None:
        click.echo("too few landslides for a law of size")
    if sizes.lognormal:
        click.echo(f"inverse gamma against lognormal: {sizes.lognormal.better} (z {sizes.lognormal.z:.1f})")
    if sizes.goodness:
        test = sizes.goodness
        click.echo(
            f"farthest of the law: {100 * test.distance:.1f} % of the landslides; p {test.p_value:.3f} of "
            f"{test.simulated} simulations"
        )
    if found.split:
        click.echo(
            f"{found.split.cut} outlines are likely several landslides': split into {found.split.parts}"
        )
    volumes = [("volume", volume) for volume in found.volumes]
    volumes += [("volume, split", volume) for volume in (found.split.volumes if found.split else ())]
    for what, volume in volumes:
        total = volume.total_m3
        click.echo(
            f"{what}, {volume.relation.name}: {total.value / 1e6:.2f} million m3 "
            f"({_ends(total, 1e-6, '.2f')}); {volume.relation.reference}"
        )
    if found.comparison and found.comparison.error_index is not None:
        counts = found.comparison.landslides.summary()
        click.echo(
            f"against the reference: error index {found.comparison.error_index:.3f}; of ours "
            f"{_written_score(counts['cover50_precision'])} are covered by half, of theirs "
            f"{_written_score(counts['cover50_recall'])}"
        )


def _size_cells(row: "SizeStatistics") -> tuple[str, ...]:
    fit, magnitudes = row.fit, row.magnitudes
    tail = magnitudes.by_tail
    return (
        str(row.complete_count),
        f"{fit.tail_exponent.value:.2f} ({_ends(fit.tail_exponent, 1, '.2f')})" if fit else "-",
        f"{fit.rollover_m2.value:.0f} ({_ends(fit.rollover_m2, 1, '.0f')})"
        if fit and fit.rollover_is_seen
        else "not seen",
        *(f"{value:.2f}" if value is not None else "-" for value in (
            magnitudes.by_number, tail and tail.value, magnitudes.by_area
        )),
    )  # fmt: skip


def _ends(interval: "Interval", scale: float, form: str) -> str:
    """Low to high, a question mark where there is no bound."""
    return "-".join(
        "?" if end is None else format(end * scale, form) for end in (interval.low, interval.high)
    )


def show_truth(truth: Mapping[str, Any]) -> None:
    """What a simulated event's truth says of its map, a line a part."""

    def said(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    click.echo(
        f"F1 {said(truth['f1'])}, precision {said(truth['precision'])}, recall {said(truth['recall'])} "
        "against the exact truth"
    )
    if shifts := truth["coregistration"]:
        click.echo(
            f"scenes before: shifts measured within {said(shifts['error_ce90_px'])} px (CE90), "
            f"{said(shifts['left_ce90_px'])} px left after repair"
        )
    old, observed = truth["old"], truth["observed"]
    click.echo(
        f"old landslides: {said(old['excluded'])} of their pixels told, "
        f"{said(old['new_excluded'])} of the new ones taken for old"
    )
    click.echo(
        f"observed: {said(observed['mapped'])} of the area, {said(observed['true'])} in truth; "
        f"right on {said(observed['agree'])}"
    )
    sizes = truth["sizes"]
    tails = [sizes[of]["tail_exponent"] for of in ("map", "truth")]
    shown = ["not known" if tail is None else f"{tail[0]:.2f}" for tail in tails]
    click.echo(
        f"sizes from {sizes['completeness_m2']:g} m2 on, map and truth: {sizes['map']['count']} and "
        f"{sizes['truth']['count']} landslides, tail exponent {shown[0]} and {shown[1]}"
    )
    worst = sorted(truth["false_alarms"].items(), key=lambda alarm: -alarm[1]["px"])[:5]
    alarms = ", ".join(f"{kind.replace('_', ' ')} {100 * one['share']:.1f} %" for kind, one in worst)
    click.echo(f"false alarms, most first: {alarms} of that ground")


def conclude_run(report: "RunReport", settings: "OutputConfig") -> None:
    """The last lines of a run, and its exit code."""
    out = settings.out.rstrip("/")
    if settings.update and report.updates:
        update = report.updates[-1]
        click.echo(
            f"update {update.number}: {len(update.added)} scenes added, {len(update.removed)} removed, "
            f"{len(update.changed)} changed; {update.changed_chunks} chunks had other scenes than before"
        )
    click.echo(
        f"{report.landslide_count} landslides, {report.landslide_area_m2 / 1e6:.3f} km2, on "
        f"{100 * report.observed_share:.1f} % observed of {report.aoi_km2:.1f} km2"
    )
    kinds = [f"{total.count} {change}" for change, total in report.changes.items() if total.count]
    if report.status_shares.keys() >= {"pre"}:
        click.echo(f"against the scenes before: {', '.join(kinds) or 'nothing'}")
    hidden = {name: share for name, share in report.status_shares["post"].items() if name != "observed"}
    if hidden:
        said = ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f} %" for name, share in hidden.items())
        click.echo(f"not clear: {said}; see {out}/observed.parquet")
    if report.edits:
        _show_edits(report.edits)
    if report.scenes_without_mask:
        click.echo(
            f"{len(report.scenes_without_mask)} scenes have no usable data mask: clouds in them are not told"
        )
    click.echo(f"map: coseis view {out}")
    if report.products:
        product = report.products[-1]
        click.echo(f"product {product.number}, {product.title}: one page to print {out}/report.html")
    click.echo(f"picture {out}/map.png, polygons {out}/landslides.parquet, report {out}/run.json")
    refuse_failures(report.failed, settings, f"{out}/run.json")


def _show_edits(edits: "EditsReport") -> None:
    """What of the inventory is by mappers, and what they should look at again."""
    counts = ", ".join(f"{count} {_SAID[verdict]}" for verdict, count in edits.counts.items() if count)
    click.echo(one_line(f"by {', '.join(edits.editors)}: {counts}"))
    for conflict in edits.conflicts[:LISTED_EDITS]:
        others = ", ".join(f"{one.verdict} by {one.editor} ({one.edited_at})" for one in conflict.against)
        last = conflict.counts
        click.echo(
            one_line(
                f"{conflict.id}: {last.verdict} by {last.editor} ({last.edited_at}) counts, not {others}"
            )
        )
    for name, what in (
        ("conflicts", len(edits.conflicts) - LISTED_EDITS),
        ("doubled", len(edits.doubled)),
        ("cut", len(edits.cut)),
        ("gone", len(edits.gone)),
    ):
        if what > 0:
            click.echo(_REMARKS[name].format(what))


_SAID = {"accept": "accepted", "reject": "rejected", "redrawn": "redrawn", "added": "added"}
_REMARKS = {
    "conflicts": "{} more landslides on which mappers differ, see run.json",
    "doubled": "{} pairs of outlines by mappers lie on each other, see run.json",
    "cut": "{} drawn polygons lost ground that mappers settled, see run.json",
    "gone": "{} drawn polygons lay on ground that mappers settled, and are gone, see run.json",
}


def refuse_failures(failed: Sequence["FailedChunk"], settings: "OutputConfig", where: str) -> None:
    """Lists the chunks that failed, and ends with their exit code if they are more than are tolerated."""
    for failure in failed[:LISTED_FAILURES]:
        click.echo(one_line(f"chunk {failure.chunk} failed: {failure.reason}"), err=True)
    count = len(failed)
    if count > settings.tolerate_failed:
        raise IncompleteError(
            f"{count} {'chunk' if count == 1 else 'chunks'} failed, all listed in {where}; "
            "run again with --resume"
        )


def one_line(text: str) -> str:
    """Without line breaks and terminal codes, and cut: catalogs and files are quoted in messages."""
    line = " ".join(text.split())
    if len(line) > MESSAGE_LETTERS:
        line = f"{line[: MESSAGE_LETTERS // 2]} ... {line[-MESSAGE_LETTERS // 2 :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def progress_console() -> Console:
    """Where progress is drawn. A log gets none: rich would draw the bars once, at the end, over the error."""
    return Console(stderr=True, quiet=not sys.stderr.isatty())
