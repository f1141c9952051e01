"""A GeoPackage that mappers filled in goes in; what they say of landslides comes out, checked, if it is new.

The file was written by `edit_files`, but comes back as a stranger's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from coseis.edit_files import FILLED_IN, OUTLINE
from coseis.edits import (
    ACCEPT,
    ADDED,
    NEW_ID,
    RECORD_COLUMNS,
    REDRAWN,
    REJECT,
    VERDICTS,
    Edits,
    judged_outlines,
    outline_digest,
    plain_polygon,
    same_outline,
)
from coseis.errors import UsageError
from coseis.vectors import read_table

MOST_NAME, MOST_NOTE, MOST_ID = 200, 10_000, 200
"""Letters."""
AHEAD = timedelta(days=1)
"""How far a clock may be wrong: what is later would win over everything else for good."""
LISTED = 5
"""Wrong rows that are named; all are counted."""


@dataclass(frozen=True)
class Judged:
    """What a file of edits is compared with."""

    inventory: gpd.GeoDataFrame
    """As the run publishes it."""
    known: Edits | None
    """What was merged before."""
    area: BaseGeometry
    """What the run mapped, in the inventory's CRS."""
    pixel_area: float
    """Least area of an outline, in units of that CRS."""


def read_edit_file(path: Path, judged: Judged, *, editor: str | None, now: datetime) -> gpd.GeoDataFrame:
    """What mappers say in a file, as far as it is new.

    Args:
        path: A GeoPackage that `edit_files.write_edit_file` wrote.
        judged: What it is about.
        editor: Who speaks where a row does not name anybody.
        now: The time of statements that have none.

    Returns:
        `edits.RECORD_COLUMNS`; rows without a verdict say nothing.

    Raises:
        UsageError: another file, another CRS, or rows that cannot be used, which are named.
    """
    try:
        rows = read_table(path, ("id", *FILLED_IN, OUTLINE))
    except ValueError as error:
        raise UsageError(
            f"edits {path} cannot be read: {error}; expected a file that coseis edit wrote"
        ) from error
    crs = judged.inventory.crs
    if rows.crs is None or not rows.crs.equals(crs, ignore_axis_order=True):
        said = rows.crs.to_string() if rows.crs else "missing"
        raise UsageError(
            f"edits {path} have the CRS {said}, but the inventory has {crs.to_string()}; store them in that"
        )
    known = _Known.of(judged)
    wrong: list[str] = []
    found: list[dict[str, Any]] = []
    repeated = set(rows["id"][rows["id"].duplicated() & ~rows["id"].isin(("", None))])
    for number, row in enumerate(rows.to_dict("records"), 1):
        try:
            if row["id"] in repeated:
                raise ValueError("its id is there twice: empty the id of what was added")
            statement = _read_row(row, judged, known, editor, now)
        except ValueError as error:
            wrong.append(f"{_text(row['id'], MOST_ID) or f'row {number}'}: {error}")
            continue
        if statement:
            found.append(statement)
    if wrong:
        more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise UsageError(
            f"edits {path} cannot be merged, {len(wrong)} of {len(rows)} rows are wrong: "
            + "; ".join(wrong[:LISTED])
            + more
        )
    names = {row["id"] for row in found}
    if len(names) < len(found):
        raise UsageError(f"edits {path} hold the same new outline twice; delete one of them")
    table = pd.DataFrame(found, columns=list(RECORD_COLUMNS))
    return gpd.GeoDataFrame(table, geometry="geometry", crs=crs)


@dataclass(frozen=True)
class _Known:
    """The landslides that have an id already."""

    drawn: Mapping[str, BaseGeometry]
    """Of the inventory."""
    latest: Mapping[tuple[str, str], Mapping[str, Any]]
    """By id and editor, the last statement."""
    said: Mapping[tuple[str, str, str], Mapping[str, Any]]
    """By id, editor and time."""
    judged: Mapping[str, BaseGeometry | None]
    """By id of a statement, the drawn polygon that it is about."""

    @classmethod
    def of(cls, judged: Judged) -> "_Known":
        drawn = dict(zip(judged.inventory["id"], judged.inventory.geometry, strict=True))
        said: list[dict[str, Any]] = []
        if judged.known is not None:
            records = judged.known.records.sort_values("edited_at")
            pairs = zip(records.to_dict("records"), judged_outlines(records), strict=True)
            said = [row | {"judged": about} for row, about in pairs]
        return cls(
            drawn,
            {(row["id"], row["editor"]): row for row in said},
            {(row["id"], row["editor"], row["edited_at"]): row for row in said},
            {row["id"]: row["judged"] for row in said},
        )


def _read_row(
    row: Mapping[str, Any], judged: Judged, known: _Known, editor: str | None, now: datetime
) -> dict[str, Any] | None:
    """A row as a new statement; None if it says nothing, or nothing new. Raises ValueError if it is wrong."""
    given, verdict = _text(row["id"], MOST_ID), _text(row["verdict"], MOST_ID)
    shape: BaseGeometry | None = row["geometry"]
    written = _text(row[OUTLINE], MOST_ID)
    changed = bool(written) and (shape is None or outline_digest(shape) != written)
    if not verdict:
        if changed:
            raise ValueError(f"its outline was changed, but it has no verdict: expected {REDRAWN}")
        return None
    if verdict not in VERDICTS:
        raise ValueError(f"verdict is {verdict[:40]!r}; expected {', '.join(VERDICTS)}, or none")
    if verdict == ACCEPT and changed:
        raise ValueError(f"it is accepted, but its outline was changed: expected {REDRAWN}")
    if verdict == REJECT and changed and given in known.drawn:
        shape = known.drawn[given]
    outline = _checked(shape, judged)
    name = given if given in known.drawn or given in known.judged else _new_id(given, outline)
    # What is not the run's cannot be redrawn, and what is cannot be added.
    about = known.judged[name] if name in known.judged else known.drawn.get(name)
    if verdict in (REDRAWN, ADDED):
        verdict = REDRAWN if about is not None else ADDED
    elif verdict == ACCEPT and about is None and name not in known.judged:
        verdict = ADDED
    author = _text(row["editor"], MOST_NAME) or editor
    if not author:
        raise ValueError("nobody is named as its editor: fill it in, or give --editor")
    time = _moment(row["edited_at"], now)
    statement = {
        "id": name,
        "verdict": verdict,
        "editor": author,
        "edited_at": time,
        "note": _text(row["note"], MOST_NOTE),
        "judged": about,
        "geometry": outline,
    }
    before = known.latest.get((name, author)) if time is None else known.said.get((name, author, time))
    if before is not None:
        if _says_the_same(before, statement):
            return None
        if time is not None:
            raise ValueError(
                f"{author} said {before['verdict']} of it at the same time, {time}, and another thing here: "
                "set edited_at anew, or empty it"
            )
    return statement | {"edited_at": time or _written(now)}


def _says_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    plain = all(one[name] == other[name] for name in ("verdict", "note"))
    return plain and same_outline(one["geometry"], other["geometry"])


def _checked(shape: BaseGeometry | None, judged: Judged) -> BaseGeometry:
    """A polygon that can be measured. Raises ValueError if it is none."""
    if shape is None or shape.is_empty:
        raise ValueError("it has no outline")
    if shape.geom_type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"it is a {shape.geom_type}; expected a polygon")
    shape = plain_polygon(shapely.force_2d(shape))
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ValueError("its outline has coordinates that are no numbers")
    if not shape.is_valid:
        raise ValueError(
            f"its outline is invalid ({shapely.is_valid_reason(shape)}); Vector > Check Validity"
        )
    if shape.area < judged.pixel_area:
        raise ValueError("its outline is smaller than a pixel")
    if shapely.intersection(shape, judged.area).area < judged.pixel_area:
        raise ValueError("it lies outside the area that the run mapped")
    return shape


def _new_id(given: str, outline: BaseGeometry) -> str:
    """The same for the same row, also if its outline is changed later, where it came with a name."""
    digits = given.removeprefix(NEW_ID)
    if given.startswith(NEW_ID) and len(digits) == 32 and set(digits) <= set("0123456789abcdef"):
        return given
    return NEW_ID + sha256((given or outline_digest(outline)).encode()).hexdigest()[:32]


def _moment(value: object, now: datetime) -> str | None:
    """A time of SQLite as ISO 8601 in UTC; without a zone it is taken for UTC, as GeoPackage has it."""
    if value in (None, ""):
        return None
    try:
        moment = datetime.fromisoformat(str(value).strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"edited_at is {str(value)[:40]!r}; expected a time such as 2018-09-06T08:30:00Z"
        ) from error
    if moment > now + AHEAD:
        raise ValueError(f"edited_at is {_written(moment)}, which is yet to come")
    return _written(moment)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object, most: int) -> str:
    """What a stranger wrote as one line of text, without what terminals obey."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is no text")
    line = "".join(letter if letter.isprintable() else " " for letter in value).strip()
    if len(line) > most:
        raise ValueError(f"a text has {len(line)} letters; expected at most {most}")
    return line
