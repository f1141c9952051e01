"""What the tasks of a run reported goes in, what predicting took comes out: rates, bytes, seconds."""

from collections.abc import Sequence

from coseis.plan import Plan
from coseis.task import TaskReport
from coseis.types import Value


class Throughput(Value):
    """What predicting took; of a resumed run, its last part. Drawing new polygons leaves it as it was."""

    chunks: int
    """Chunks done."""
    task_seconds: dict[str, float]
    """Seconds summed over the tasks: read, predict, write."""
    delivered_mpx_per_s: float | None
    """Observed megapixels of all phases a wall second; None where nothing was left to do."""
    delivered_km2_per_s: float | None
    """The same in mapped area, whatever the number of phases."""
    bytes_read: int
    """Pixel bytes decoded, halos included."""
    bytes_fetched: int
    """Compressed bytes that they were decoded from, headers not counted."""
    bytes_needed: int
    """Bytes of the delivered pixels as they are stored."""
    read_amplification: float | None
    """Bytes decoded over bytes needed; None where nothing was."""
    observed_px: int
    """Pixels of the AOI that the post phase observed, in these chunks."""
    wall_s: float
    """Wall seconds of predicting; of several parts their sum, though they may have run side by side."""
    reached_s: dict[str, float]
    """Seconds from the start of the run, plan included, to its first chunk, half of them and all; of several
    parts the latest."""


def measure_throughput(
    plan: Plan, tasks: Sequence[TaskReport], wall_s: float, reached_s: Sequence[float]
) -> Throughput:
    """Sums what the chunks of a part reported.

    Args:
        plan: Of the run.
        tasks: The chunks that were done.
        wall_s: Seconds that they took together.
        reached_s: Seconds from the start of the run to each chunk's end, in that order.
    """
    pixel_km2 = abs(plan.identity.transform[0] * plan.identity.transform[4]) / 1e6
    observed_px = sum(task.record.observed_px for task in tasks)
    rate = observed_px / wall_s if tasks else None
    ends = {"first_chunk": 0, "half": (len(reached_s) - 1) // 2, "all": -1} if reached_s else {}
    return Throughput(
        chunks=len(tasks),
        task_seconds={
            stage: round(sum(getattr(task, f"{stage}_s") for task in tasks), 3)
            for stage in ("read", "predict", "write")
        },
        delivered_mpx_per_s=None if rate is None else round(rate * len(plan.identity.phases) / 1e6, 3),
        delivered_km2_per_s=None if rate is None else round(rate * pixel_km2, 3),
        bytes_read=sum(task.bytes_read for task in tasks),
        bytes_fetched=sum(task.bytes_fetched for task in tasks),
        bytes_needed=sum(task.bytes_needed for task in tasks),
        read_amplification=_amplification(tasks),
        observed_px=observed_px,
        wall_s=round(wall_s, 3),
        reached_s={name: round(reached_s[number], 3) for name, number in ends.items()},
    )


def join_throughputs(parts: Sequence[Throughput]) -> Throughput:
    """Of the parts of a run: sums; no rate, for nobody knows which of them ran side by side."""
    names = ("first_chunk", "half", "all")
    return Throughput(
        chunks=sum(part.chunks for part in parts),
        task_seconds={
            stage: round(sum(part.task_seconds.get(stage, 0.0) for part in parts), 3)
            for stage in ("read", "predict", "write")
        },
        delivered_mpx_per_s=None,
        delivered_km2_per_s=None,
        bytes_read=sum(part.bytes_read for part in parts),
        bytes_fetched=sum(part.bytes_fetched for part in parts),
        bytes_needed=sum(part.bytes_needed for part in parts),
        read_amplification=_amplification(parts),
        observed_px=sum(part.observed_px for part in parts),
        wall_s=round(sum(part.wall_s for part in parts), 3),
        reached_s={
            name: max(part.reached_s[name] for part in parts if part.reached_s)
            for name in names
            if any(part.reached_s for part in parts)
        },
    )


def _amplification(read: Sequence[TaskReport] | Sequence[Throughput]) -> float | None:
    needed = sum(one.bytes_needed for one in read)
    return round(sum(one.bytes_read for one in read) / needed, 3) if needed else None
