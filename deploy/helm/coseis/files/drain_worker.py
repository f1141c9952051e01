"""The worker of this container takes no more tasks; returns when those that run have ended.

    DASK_WORKER_NAME=... python drain_worker.py tls://coseis-scheduler:8786 120

The preStop hook of a worker: a node that is drained, or a spot machine that is taken away, loses no chunk
that is nearly done. What has not ended after the given seconds is done again by another worker, to the same
bytes. The name comes from the environment, because Kubernetes leaves $(NAME) as it stands in the command of a
hook (kubernetes/kubernetes#129502).
"""

import os
import sys
import time

from distributed import Client

CONNECT_TIMEOUT_S = 10
POLL_S = 0.5


def _running(dask_worker: object) -> int:
    """On the worker: how many tasks its threads are at."""
    return int(dask_worker.state.executing_count)  # type: ignore[attr-defined]


def drain(scheduler: str, name: str, timeout_s: float) -> int:
    """How many tasks still ran when the time was over."""
    end = time.monotonic() + timeout_s
    with Client(scheduler, timeout=CONNECT_TIMEOUT_S) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        here = [address for address, worker in workers.items() if str(worker["name"]) == name]
        if not here:
            return 0
        # Neither closed nor removed: it only gets no new task.
        client.retire_workers(workers=here, close_workers=False, remove=False)
        while running := sum(client.run(_running, workers=here, on_error="return").values()):
            if time.monotonic() >= end:
                return running
            time.sleep(POLL_S)
    return 0


def main(scheduler: str, timeout_s: str) -> int:
    """Exit code; a hook that fails only makes an event, and the pod ends all the same."""
    name = os.environ["DASK_WORKER_NAME"]
    try:
        left = drain(scheduler, name, float(timeout_s))
    except (OSError, TypeError) as error:  # no scheduler; or the worker is gone, and an error is no number
        print(f"not drained: {error}", file=sys.stderr)
        return 1
    if left:
        print(
            f"{left} tasks of {name} run on after {timeout_s} s; others will do them again", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
