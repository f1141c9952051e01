"""What a run shows and times: stages go in, progress bars and seconds come out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class Clock:
    """Seconds a stage, by name."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what runs within."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def progress_bars(console: Console | None) -> Progress:
    """Bars for the stages of a run, on a console; None shows nothing."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console or Console(quiet=True),
    )


@contextmanager
def one_step(progress: Progress, description: str) -> Iterator[None]:
    """Shows a stage that has no parts to count."""
    bar = progress.add_task(description, total=1)
    yield
    progress.advance(bar)
