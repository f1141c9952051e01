"""The footer of a Parquet file and what is asked for go in; the row groups that may hold such items come out.

By their statistics, which pyarrow decodes where an exception ends the process (parquet::ParquetException
out of ColumnChunkMetaData::statistics, pyarrow 26): a stranger's file would end ours. So another one does it.
"""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import and_, or_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

TIMEOUT_S = 120

Box = tuple[float, float, float, float]
Window = tuple[datetime, datetime]


def fitting_groups(
    footer: bytes, collections: Sequence[str], bbox: Box, windows: Sequence[Window]
) -> list[int]:
    """Numbers of the row groups that may hold such rows.

    Args:
        footer: The end of the file, its last eight bytes with it.
        collections: Ids; empty: all.
        bbox: West, south, east, north in degrees.
        windows: Start and end, both with a zone.

    Raises:
        ValueError: the footer is damaged, or takes forever.
    """
    asked = [list(collections), bbox, [[moment.isoformat() for moment in window] for window in windows]]
    try:
        done = subprocess.run(
            # -P: nothing is imported from the folder that one happens to be in.
            [sys.executable, "-P", "-m", "coseis.row_groups", json.dumps(asked)],
            input=footer, capture_output=True, check=True, timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        raise ValueError("its footer is damaged") from error
    return [int(word) for word in done.stdout.split()]


def condition(
    schema: pa.Schema,
    collections: Sequence[str],
    bbox: Box,
    windows: Sequence[Window],
) -> Any:
    """The condition on a row, of the columns that the file has in a form that can be compared."""
    tests: list[Any] = [pc.scalar(True)]
    if collections and "collection" in schema.names:
        tests.append(pc.field("collection").isin(list(collections)))
    box = schema.field("bbox").type if "bbox" in schema.names else pa.null()
    sides = {box.field(number).name for number in range(box.num_fields)}
    if sides >= {"xmin", "ymin", "xmax", "ymax"}:
        west, south, east, north = bbox
        xmin, ymin, xmax, ymax = (pc.field("bbox", side) for side in ("xmin", "ymin", "xmax", "ymax"))
        across = (xmin > xmax) & ((xmin <= east) | (xmax >= west))  # the antimeridian
        inside = (((xmin <= east) & (xmax >= west)) | across) & (ymin <= north) & (ymax >= south)
        tests.append(inside | xmin.is_null())
    times = {
        name: pc.field(name)
        for name in ("datetime", "start_datetime", "end_datetime")
        if name in schema.names and pa.types.is_timestamp(schema.field(name).type)
    }
    if "datetime" in times:
        start, end = times.get("start_datetime"), times.get("end_datetime")
        within = [_between(times["datetime"], times["datetime"], *window, schema) for window in windows]
        if start is not None and end is not None:
            within += [_between(start, end, *window, schema) for window in windows]
            untold = times["datetime"].is_null() & start.is_null()
        else:
            untold = times["datetime"].is_null()
        tests.append(reduce(or_, within) | untold)
    return reduce(and_, tests)


def _between(start: Any, end: Any, first: datetime, last: datetime, schema: pa.Schema) -> Any:
    """Whether an interval touches a window; times without a zone are UTC."""
    kind = schema.field("datetime").type
    moments = (moment.astimezone(UTC) for moment in (first, last))
    begin, stop = (
        pa.scalar(moment if kind.tz else moment.replace(tzinfo=None), pa.timestamp("us", kind.tz))
        for moment in moments
    )
    return (start <= stop) & (end >= begin)


def _main() -> None:
    collections, bbox, windows = json.loads(sys.argv[1])
    moments = [(datetime.fromisoformat(first), datetime.fromisoformat(last)) for first, last in windows]
    source = pa.PythonFile(io.BytesIO(b"PAR1" + sys.stdin.buffer.read()), "r")
    fragment = ds.ParquetFileFormat().make_fragment(source)
    wanted = condition(fragment.physical_schema, collections, tuple(bbox), moments)
    parts = fragment.split_by_row_group(wanted)
    sys.stdout.write(" ".join(str(group.id) for part in parts for group in part.row_groups))


if __name__ == "__main__":
    _main()
