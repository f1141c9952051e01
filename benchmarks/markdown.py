"""Tables in, Markdown out, written between the markers of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coseis.errors import UsageError


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def write_between(path: Path, text: str, *, markers: tuple[str, str]) -> None:
    """Replaces what stands between two markers of a file.

    Raises:
        UsageError: the file lacks one.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not (begin and end):
        raise UsageError(f"{path} lacks the markers {' and '.join(markers)} that tables are written between")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
