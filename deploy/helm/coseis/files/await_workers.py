"""The scheduler's address, a number of workers and seconds go in; returns when so many workers are there.

    python await_workers.py tls://coseis-scheduler:8786 1 1800

Nodes that are scaled up from none take minutes, longer than `coseis map` waits for its first worker. Ends
with 75 (try again) when they do not come in time.
"""

import sys
import time

from distributed import Client

CONNECT_TIMEOUT_S = 20


def await_workers(scheduler: str, count: int, timeout_s: float) -> None:
    """Returns when `count` workers have joined.

    Raises:
        TimeoutError: the scheduler did not answer, or they did not come, within `timeout_s`.
    """
    end = time.monotonic() + timeout_s
    while True:
        left_s = end - time.monotonic()
        try:
            with Client(scheduler, timeout=min(CONNECT_TIMEOUT_S, max(left_s, 1))) as client:
                client.wait_for_workers(count, timeout=max(end - time.monotonic(), 1))
                return
        except OSError as error:  # TimeoutError too
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{scheduler}: fewer than {count} workers after {timeout_s:g} s"
                ) from error
            # A name without an address yet is refused at once.
            time.sleep(1)


def main(scheduler: str, count: str, timeout_s: str) -> int:
    """Exit code."""
    try:
        await_workers(scheduler, int(count), float(timeout_s))
    except TimeoutError as error:
        print(f"{error}; are there nodes for them?", file=sys.stderr)
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
