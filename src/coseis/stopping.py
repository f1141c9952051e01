"""SIGTERM goes in: what hands out jobs ends in order within a grace period, all else ends at once.

Kubernetes and batch systems send it and kill half a minute later; a spot machine that is taken back does too.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from coseis.errors import UnreachableError

GRACE_S = 20.0
"""For the chunks in hand: Kubernetes kills 30 s after SIGTERM, and clusters must be closed too."""
CLOSING_S = 5.0
"""What closing may take beyond the grace period before the process ends as it is."""
REASON = "stopped by SIGTERM; run again, a map or a training with --resume"


class Stopped(BaseException):
    """The process was asked to end. As KeyboardInterrupt it is no error, so that nothing keeps it."""


@dataclass
class _Request:
    """What was asked of this process: signals are the process's, so there is one."""

    grace_s: float = GRACE_S
    deadline: float | None = None
    """When the grace period is over, by the monotonic clock; None until asked."""
    sections: int = 0
    """How many pieces of work would rather end in order."""


_request = _Request()


@contextmanager
def obeying_sigterm() -> Iterator[None]:
    """From here on SIGTERM raises Stopped, or is noted for `in_order`; a second one ends the process."""
    _request.grace_s, _request.deadline = GRACE_S, None
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _request.deadline = None


def set_grace(grace_s: float) -> None:
    """How long work that ends in order may take once asked, seconds."""
    _request.grace_s = grace_s


@contextmanager
def in_order() -> Iterator[None]:
    """A piece of work that looks at `seconds_left` itself; if it was asked to stop, ends in Stopped."""
    _request.sections += 1
    try:
        yield
    finally:
        _request.sections -= 1
    if _request.deadline is not None:
        raise Stopped


def seconds_left() -> float | None:
    """Of the grace period, negative when it is over; None while nobody asked to stop."""
    return None if _request.deadline is None else _request.deadline - time.monotonic()


def _stop(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _request.deadline = time.monotonic() + _request.grace_s
    # Closing waits for threads, and one may wait for a server.
    watch = threading.Timer(_request.grace_s + CLOSING_S, _end_as_it_is)
    watch.daemon = True
    watch.start()
    if not _request.sections:
        raise Stopped


def _end_as_it_is() -> None:
    if _request.deadline is not None:
        os.write(2, f"coseis: {REASON}\n".encode())
        os._exit(UnreachableError.exit_code)
