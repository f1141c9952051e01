"""A checked address goes in, the first bytes of the file and any ranges come out: disk, web or bucket."""

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from coseis.addresses import AddressPolicy, is_remote, local_path
from coseis.blocks import REMOTE_READS, ReadBytes, count_bytes
from coseis.errors import InputRefusedError
from coseis.remote import Answer, RemoteFile, Stamp, check_same, fetch

START_BYTES = 2**15
"""Holds the directories of a COG; kept, so that opening it again costs no request."""
GAP_BYTES = 2**15
"""Ranges that lie no farther apart are one request: the bytes between come sooner than another answer."""
MAX_REQUEST_BYTES = 64 * 2**20

# Its jobs wait for nobody, so threads that read blocks may wait for them.
_fetches = ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="coseis-fetch")


class ByteRange(NamedTuple):
    """Part of a file."""

    offset: int
    length: int

    @property
    def stop(self) -> int:
        """Byte after the last."""
        return self.offset + self.length


@dataclass(frozen=True)
class OpenedFile:
    """A file whose start was read; nothing of it is held open."""

    href: str
    label: str
    """Its name in messages."""
    policy: AddressPolicy | None
    """What redirects may lead to."""
    stamp: Stamp
    """Of the first answer: what comes later must be of the same file."""
    start: bytes = field(repr=False)
    """The first bytes; all of a file from a server that knows no ranges."""


def open_file(href: str, label: str, policy: AddressPolicy | None) -> OpenedFile:
    """Reads the first bytes of a file.

    Raises:
        InputRefusedError, UnreachableError: as `remote.fetch`, or a local file cannot be opened.
    """
    answer = _fetch(href, label, policy, 0, START_BYTES, None)
    return OpenedFile(href, label, policy, answer.stamp, answer.content)


def read_at(file: OpenedFile, offset: int, count: int) -> bytes:
    """Bytes of a file; fewer where it ends. Raises as `open_file`."""
    stop = min(offset + count, file.stamp.size)
    if stop <= len(file.start):
        return file.start[offset:stop]
    answer = _fetch(file.href, file.label, file.policy, offset, stop, file.stamp)
    return answer.content[offset - answer.start : stop - answer.start]


def read_ranges(file: OpenedFile, ranges: Sequence[ByteRange]) -> list[bytes]:
    """Several ranges, those near each other by one request, requests side by side; counted as fetched.

    Raises:
        InputRefusedError: as `open_file`, or the file ends before a range does.
        UnreachableError: as `open_file`.
    """
    end = max((wanted.stop for wanted in ranges), default=0)
    if end > file.stamp.size:
        raise InputRefusedError(
            f"{file.label} cannot be read: it breaks off, at {file.stamp.size} bytes of at least {end}"
        )
    groups = list(_near(sorted(set(ranges))))
    requests = [
        ByteRange(group[0].offset, max(one.stop for one in group) - group[0].offset) for group in groups
    ]

    def ask(request: ByteRange) -> bytes:
        return read_at(file, request.offset, request.length)

    ask_all = _fetches.map if len(requests) > 1 and is_remote(file.href) else map
    answers = list(ask_all(ask, requests))
    count_bytes(ReadBytes(fetched=sum(map(len, answers))))
    parts = {}
    for group, request, content in zip(groups, requests, answers, strict=True):
        for wanted in group:
            begin = wanted.offset - request.offset
            parts[wanted] = content[begin : begin + wanted.length]
    return [parts[wanted] for wanted in ranges]


def _near(ranges: Sequence[ByteRange]) -> Iterator[list[ByteRange]]:
    """Ascending ranges, those together that touch or nearly do."""
    group: list[ByteRange] = []
    stop = 0
    for wanted in ranges:
        far = (
            wanted.offset - stop > GAP_BYTES or wanted.stop - group[0].offset > MAX_REQUEST_BYTES
            if group
            else False
        )
        if far:
            yield group
            group = []
        group.append(wanted)
        stop = max(stop, wanted.stop)
    if group:
        yield group


def local_stamp(href: str) -> Stamp | None:
    """The state of a local file; None where there is none."""
    try:
        return _stamp(os.stat(local_path(href)))
    except OSError:
        return None


def _fetch(
    href: str, label: str, policy: AddressPolicy | None, start: int, stop: int, known: Stamp | None
) -> Answer:
    if is_remote(href):
        return fetch(RemoteFile(href, label, policy), start, stop, known)
    try:
        # A pipe would keep us waiting for its other end.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        number = os.open(local_path(href), flags)
        try:
            state = os.fstat(number)
            if not stat.S_ISREG(state.st_mode):
                raise InputRefusedError(f"{label} cannot be read: it is no plain file")
            now = _stamp(state)
            if known is not None:
                check_same(label, known, now)
            with os.fdopen(number, "rb", closefd=False) as opened:
                opened.seek(start)
                content = opened.read(stop - start)
        finally:
            os.close(number)
    except (OSError, ValueError) as error:
        raise InputRefusedError(f"{label} cannot be read: {_reason(error)}") from error
    return Answer(start, content, now)


def _stamp(state: os.stat_result) -> Stamp:
    return Stamp(state.st_size, str(state.st_ino), str(state.st_mtime_ns))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
