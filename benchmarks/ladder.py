"""A folder of labelled imagery in, the ladder of rivals out: cached results, tables, intervals, pictures.

    python benchmarks/ladder.py DATA [--only RUNG] [--split NAME] [--seeds N] [--list]

Runs whatever has no result yet, or one of other settings, splits or files; then remakes the table in
docs/ladder.md and ladder.csv beside the results. What is compared and how stands in splits.yaml and rungs.py.
On a busy machine OMP_NUM_THREADS=1 makes the trees quicker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from coseis.errors import CoseisError, UsageError
from coseis.evaluation import CodeCounts
from ladder_pictures import draw_splits, draw_worst
from ladder_report import write_report
from ladder_results import (
    Result,
    UintArray,
    count_maps,
    digests_of,
    read_result,
    result_key,
    result_path,
    run_rung,
    write_result,
)
from ladder_splits import Split, Splits, load_splits, read_groups
from networks import NETWORK_RUNGS
from rungs import BoostedTrees, RatioRule, Rung

HERE = Path(__file__).parent
RUNGS: tuple[Rung, ...] = (RatioRule(), BoostedTrees(), *NETWORK_RUNGS)
"""From the lowest up: the order of the tables."""
State = Literal["done", "changed", "missing"]


@dataclass(frozen=True)
class Cell:
    """One rung on one split with one seed, and what is known of it."""

    rung: Rung
    split: Split
    seed: int
    key: str
    path: Path
    result: Result | None

    @property
    def state(self) -> State:
        """Whether its result is there and of today's settings."""
        if self.result is None:
            return "missing"
        return "done" if self.result.key == self.key else "changed"


def main(arguments: Sequence[str] | None = None, *, rungs: Sequence[Rung] = RUNGS) -> int:
    """Reads the options and does what they say; the exit code."""
    options = _parse(arguments)
    try:
        splits = load_splits(options.splits)
        _check_names("rung", options.only, [rung.name for rung in rungs])
        _check_names("split", options.split, [split.name for split in splits.splits])
        if options.map:
            draw_splits(options.data, splits, options.map)
        elif options.worst:
            _draw_worst_of(options, splits, rungs)
        elif options.list:
            for cell in _cells(options, splits, rungs):
                print(f"{cell.state:8} {cell.rung.name:12} {cell.split.name:12} seed {cell.seed}")
        else:
            _run_cells(options, splits, rungs)
            _report(options, splits, rungs)
    except CoseisError as error:
        print(f"ladder: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="holds iburi, hrgldd and landslide4sense")
    parser.add_argument("--only", metavar="RUNG", action="append", help="run this one (may be repeated)")
    parser.add_argument("--split", metavar="NAME", action="append", help="run on this one (may be repeated)")
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="at most so many seeds a cell")
    parser.add_argument("--resamples", metavar="N", type=int, default=2000, help="of the intervals")
    parser.add_argument("--list", action="store_true", help="say what is there and what would run")
    parser.add_argument("--recount", action="store_true", help="count the kept maps anew, run nothing")
    parser.add_argument(
        "--worst", metavar="PNG", type=Path, help="draw the worst patches of --only on --split"
    )
    parser.add_argument("--map", metavar="PNG", type=Path, help="draw where the splits lie")
    parser.add_argument("--splits", metavar="FILE", type=Path, default=HERE / "splits.yaml")
    parser.add_argument("--results", metavar="FOLDER", type=Path, default=HERE / "results" / "ladder")
    parser.add_argument(
        "--report", metavar="FILE", type=Path, default=HERE.parent / "docs" / "ladder.md", help="Markdown"
    )
    return parser.parse_args(arguments)


def _check_names(kind: str, asked: Sequence[str] | None, known: Sequence[str]) -> None:
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise UsageError(f"no {kind} is named {', '.join(unknown)}; expected one of {', '.join(known)}")


def _cells(options: argparse.Namespace, splits: Splits, rungs: Sequence[Rung]) -> Iterator[Cell]:
    """The cells that the options ask for, split by split, from the lowest rung up."""
    for split in splits.splits:
        if options.split and split.name not in options.split:
            continue
        for rung in rungs:
            if options.only and rung.name not in options.only:
                continue
            digests = digests_of(rung, split, options.data)
            for seed in range(min(split.repeats, rung.repeats, options.seeds)):
                path = result_path(options.results, rung.name, split.name, seed)
                key = result_key(rung, split, seed, digests)
                yield Cell(rung, split, seed, key, path, read_result(path))


def _run_cells(options: argparse.Namespace, splits: Splits, rungs: Sequence[Rung]) -> None:
    for cell in _cells(options, splits, rungs):
        if options.recount:
            _recount(cell, options.data, splits)
        elif cell.state != "done":
            result, maps = run_rung(
                cell.rung, cell.split, cell.seed, data=options.data, splits=splits, key=cell.key
            )
            write_result(result, cell.path)
            np.savez_compressed(_maps_path(cell), allow_pickle=False, **maps)
            print(_line(result), flush=True)


def _recount(cell: Cell, data: Path, splits: Splits) -> None:
    """Counts kept maps anew, after the metrics changed and no rung did."""
    if cell.result is None or cell.state != "done" or not _maps_path(cell).exists():
        print(f"{cell.rung.name} on {cell.split.name}, seed {cell.seed}: no map of today's settings is kept")
        return
    patches = count_maps(
        read_groups(data, splits, cell.split.test),
        _read_maps(cell),
        splits=splits,
        threshold=cell.result.threshold,
    )
    write_result(cell.result.model_copy(update={"patches": patches}), cell.path)


def _draw_worst_of(options: argparse.Namespace, splits: Splits, rungs: Sequence[Rung]) -> None:
    cells = list(_cells(options, splits, rungs))
    if len(cells) != 1 or cells[0].result is None or not _maps_path(cells[0]).exists():
        raise UsageError(
            f"--worst draws one result whose maps are kept; {len(cells)} were asked for: name one rung by "
            "--only, one split by --split and --seeds 1, and run it first"
        )
    cell = cells[0]
    patches = read_groups(options.data, splits, cell.split.test)
    draw_worst(patches, _read_maps(cell), cells[0].result, options.worst)


def _report(options: argparse.Namespace, splits: Splits, rungs: Sequence[Rung]) -> None:
    """Tables of every result that is there, whatever was asked to run."""
    everything = argparse.Namespace(**{**vars(options), "only": None, "split": None, "seeds": sys.maxsize})
    cells = list(_cells(everything, splits, rungs))
    results = [cell.result for cell in cells if cell.result is not None and cell.state == "done"]
    if results:
        write_report(
            results,
            splits,
            markdown=options.report,
            table=options.results / "ladder.csv",
            resamples=options.resamples,
        )
    print(f"{len(results)} of {len(cells)} results are in {options.report}; --list names the others")


def _maps_path(cell: Cell) -> Path:
    return cell.path.with_suffix(".npz")


def _read_maps(cell: Cell) -> dict[str, UintArray]:
    with np.load(_maps_path(cell), allow_pickle=False) as arrays:
        return dict(arrays)


def _line(result: Result) -> str:
    total = sum((counts.pixels for counts in result.counts), start=CodeCounts())
    f1 = total.scores(result.threshold).f1
    return (
        f"{result.rung} on {result.split}, seed {result.seed}: F1 {'-' if f1 is None else f'{f1:.3f}'} at "
        f"{result.threshold:.2f}, {sum(result.seconds.values()):.0f} s, {dict(result.notes)}"
    )


if __name__ == "__main__":
    sys.exit(main())
