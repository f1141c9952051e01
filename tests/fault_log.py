"""What was broken on purpose and what became of it goes in; the table in docs/reliability.md comes out.

    python tests/fault_log.py LOG docs/reliability.md

`make faults` runs the tests and then this. A test notes a fault once it has seen the outcome hold.
"""

import json
import os
import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path

LOG = "COSEIS_FAULT_LOG"
"""Environment variable: the file that the tests note faults in; without it nothing is noted."""
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


class Outcome(StrEnum):
    EQUAL = "equal"
    """The map is the undisturbed run's: decoded arrays and polygons."""
    LISTED = "listed"
    """What is missing is listed, the exit code is right, the rest is equal."""
    REFUSED = "refused"
    """Nothing was written; one line and the right exit code."""


def note_fault(part: str, fault: str, outcome: Outcome, *, times: int = 1) -> None:
    """Notes that a fault was injected so many times into one run, and how that ended.

    Args:
        part: What was hit: worker, scheduler, client, COG server, S3, STAC API, disk.
        fault: What was done to it.
        outcome: As the test has asserted it.
        times: Faults injected into this run.
    """
    if path := os.environ.get(LOG):
        row = {"part": part, "fault": fault, "outcome": outcome.value, "times": times}
        with open(path, "a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")


def table(lines: list[str]) -> str:
    """Markdown: a row for each part and fault, and the sum."""
    injected: Counter[tuple[str, str]] = Counter()
    runs: Counter[tuple[str, str, str]] = Counter()
    for row in map(json.loads, lines):
        key = (row["part"], row["fault"])
        injected[key] += row["times"]
        runs[*key, row["outcome"]] += 1
    names = [outcome.value for outcome in Outcome]
    rows = [
        f"| {part} | {fault} | {count} | "
        + " | ".join(str(runs[part, fault, name] or "") for name in names)
        + " |"
        for (part, fault), count in sorted(injected.items())
    ]
    sums = [sum(count for (*_, name), count in runs.items() if name == wanted) for wanted in names]
    head = f"| part | fault | injected | {' | '.join(f'runs {name}' for name in names)} |"
    total = f"| all | | {injected.total()} | {' | '.join(map(str, sums))} |"
    return "\n".join([head, "|---|---|--:|" + "--:|" * len(names), *rows, total])


def main(log: str, page: str) -> None:
    path = Path(page)
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    lines = Path(log).read_text(encoding="utf-8").splitlines()
    path.write_text(f"{before}{BEGIN}\n{table(lines)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
