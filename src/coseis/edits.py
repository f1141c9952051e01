"""Verdicts of mappers and drawn polygons go in, the inventory that the mappers ask for comes out.

Verdicts are kept with the ground that they are about, and laid over the polygons by place: another threshold,
or other scenes, draws other polygons with other ids, and what a mapper settled must stay settled.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from obstore.store import ObjectStore
from shapely.geometry.base import BaseGeometry

from coseis.errors import InputRefusedError
from coseis.objects import create_object, get_object, replace_object
from coseis.types import Value

EDITS = "edits.parquet"
"""Every statement of every mapper, the superseded ones too."""
ACCEPT, REJECT, REDRAWN, ADDED = VERDICTS = ("accept", "reject", "redrawn", "added")
KEPT = (ACCEPT, REDRAWN, ADDED)
"""Verdicts whose outline is in the inventory."""
RECORD_COLUMNS = ("id", "verdict", "editor", "edited_at", "note", "judged", "geometry")
"""A statement: `edited_at` ISO 8601, UTC, milliseconds; `judged`, the drawn polygon that it is about, if any;
`geometry`, the outline, of a rejected polygon what was rejected."""
NEW_ID = "added-"
"""Ids of landslides that a mapper added begin so, and go on with 32 hexadecimal digits."""
REST = "-rest"
"""What the id of the rest of a polygon ends in, if its own stands for a verdict."""
EDIT_COLUMNS = {"verdict": "string", "edited_by": "string", "edited_at": "string"}
"""What a run with edits has in its inventory beside: missing where no mapper said anything."""
GIVES_WAY = 0.5
"""Share of a drawn polygon on settled ground from which on it is gone; of one below it the rest is kept."""
SAME = 0.5
"""Share of the smaller of two outlines from which on they are likely to be one landslide, drawn twice."""

Measure = Callable[[gpd.GeoDataFrame], gpd.GeoDataFrame]
"""`id` and outlines to rows of the inventory: `outlines.measure_outlines`."""


class Statement(Value):
    """What a mapper said of a landslide."""

    verdict: str
    editor: str
    edited_at: str


class Conflict(Value):
    """A landslide of which mappers say different things."""

    id: str
    counts: Statement
    """The latest."""
    against: tuple[Statement, ...]
    """The latest of each other mapper that differs."""


class EditsReport(Value):
    """What of an inventory is by mappers."""

    digest: str
    """Of the statements that were laid over."""
    counts: dict[str, int]
    """Landslides by the verdict that counts, of all VERDICTS."""
    editors: tuple[str, ...]
    last: str
    """Time of the latest statement."""
    conflicts: tuple[Conflict, ...] = ()
    doubled: tuple[tuple[str, str], ...] = ()
    """Ids of outlines by mappers that lie on each other."""
    cut: tuple[str, ...] = ()
    """Drawn polygons that lost ground to a verdict on another."""
    gone: tuple[str, ...] = ()
    """Drawn polygons without a verdict of their own that lay mostly on settled ground."""


@dataclass(frozen=True)
class Edits:
    """The statements that a run keeps."""

    records: gpd.GeoDataFrame
    """RECORD_COLUMNS, in the CRS of the inventory."""
    digest: str


def read_edits(store: ObjectStore) -> Edits | None:
    """The statements that a run keeps, None if there are none.

    Raises:
        InputRefusedError: they are damaged.
    """
    content = get_object(store, EDITS)
    return None if content is None else _parse(content)


def keep_edits(store: ObjectStore, fresh: Callable[[Edits | None], gpd.GeoDataFrame]) -> Edits | None:
    """Adds statements to those of a run; of several that do so at once none is lost.

    Args:
        store: Where the run lies.
        fresh: What is new beside the statements that are there; called again if others came meanwhile.

    Returns:
        All of them, None if there are none.

    Raises:
        InputRefusedError: those that are there are damaged, or the store refuses the new ones.
        UnreachableError: the store does not answer.
    """
    while True:
        content = get_object(store, EDITS)
        known = None if content is None else _parse(content)
        added = fresh(known)
        if added.empty:
            return known
        records = added if known is None else join_records(known.records, added)
        text = _written(records.sort_values(["id", "edited_at", "editor"], ignore_index=True))
        if content is None:
            if create_object(store, EDITS, text):
                return _parse(text)
        elif replace_object(store, EDITS, content, text):
            return _parse(text)


def standing(records: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The statement that counts of each landslide: the latest, of several at once that of the last name."""
    ordered = records.sort_values(["id", "edited_at", "editor"])
    return ordered.drop_duplicates("id", keep="last").reset_index(drop=True)


def find_conflicts(records: gpd.GeoDataFrame) -> tuple[Conflict, ...]:
    """Landslides of which the latest statements of two mappers differ, in verdict or outline."""
    found = []
    latest = records.sort_values(["id", "edited_at", "editor"]).drop_duplicates(["id", "editor"], keep="last")
    for name, said in latest.groupby("id"):
        last = said.iloc[-1]
        against = [
            _statement(row)
            for _, row in said.iloc[:-1].iterrows()
            if row["verdict"] != last["verdict"] or not same_outline(row["geometry"], last["geometry"])
        ]
        if against:
            found.append(Conflict(id=str(name), counts=_statement(last), against=tuple(against)))
    return tuple(found)


def lay_edits(
    drawn: gpd.GeoDataFrame, edits: Edits, measure: Measure, *, pixel_m2: float
) -> tuple[gpd.GeoDataFrame, EditsReport]:
    """The inventory that mappers ask for, of the polygons that the network draws.

    What a mapper judged is settled: drawn polygons keep only what lies elsewhere, and if that is not half of
    them, nothing. In their place stand the outlines that were accepted, redrawn or added.

    Args:
        drawn: As `draw.Drawing` describes them.
        edits: In the CRS of the polygons.
        measure: Gives outlines their attributes.
        pixel_m2: Of the grid; what shares less than half of one with settled ground stays as it is.

    Returns:
        The inventory with EDIT_COLUMNS, and what was done.
    """
    last = standing(edits.records)
    ground = _settled(last)
    rest, cut, gone = _outside(drawn, ground, pixel_m2)
    kept = last[last["verdict"].isin(KEPT)]
    places = dict(zip(drawn["id"], range(len(drawn)), strict=True))
    as_drawn = [
        row.id in places
        and row.verdict == ACCEPT
        and same_outline(row.geometry, drawn.geometry.iloc[places[row.id]])
        for row in kept.itertuples()
    ]
    unchanged = [places[name] for name in kept["id"][as_drawn]]
    taken = set(last["id"])
    cut = cut.assign(id=[_free_name(name, taken) for name in cut["id"]])
    outlines = join_records(kept.loc[~np.array(as_drawn, bool), ["id", "geometry"]], cut)
    others = drawn.iloc[rest]
    others = others.assign(id=[_free_name(name, taken) for name in others["id"]])
    tables = [join_records(others, drawn.iloc[unchanged])]
    tables += [measure(outlines)] if len(outlines) else []
    polygons = tables[0] if len(tables) == 1 else join_records(*tables)
    polygons = _in_order(_signed(polygons, kept), places)
    report = EditsReport(
        digest=edits.digest,
        counts={verdict: int((last["verdict"] == verdict).sum()) for verdict in VERDICTS},
        editors=tuple(sorted(set(last["editor"]))),
        last=max(last["edited_at"], default=""),
        conflicts=find_conflicts(edits.records),
        doubled=_doubled(kept),
        cut=tuple(cut["id"]),
        gone=tuple(name for name in gone if name not in taken),
    )
    return polygons, report


def judged_outlines(records: gpd.GeoDataFrame) -> list[BaseGeometry | None]:
    """The drawn polygon that each statement is about, None where there was none."""
    return [shape if isinstance(shape, BaseGeometry) else None for shape in records["judged"]]


def same_outline(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two polygons have the same vertices, wherever their rings begin."""
    return outline_digest(one) == outline_digest(other)


def outline_digest(shape: BaseGeometry) -> str:
    """Tells outlines apart, but not the ways to write one: where rings begin, a multipolygon of one."""
    plain = shapely.normalize(shapely.force_2d(plain_polygon(shape)))
    return hashlib.sha256(shapely.to_wkb(plain, byte_order=1)).hexdigest()[:16]


def plain_polygon(shape: BaseGeometry) -> BaseGeometry:
    """The polygon of a multipolygon that has but one; any other shape as it is."""
    parts = shapely.get_parts(shape)
    plain: BaseGeometry = parts[0] if len(parts) == 1 else shape
    return plain


def join_records(one: gpd.GeoDataFrame, other: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Both tables, one after the other; an empty one has no types that count."""
    tables = [table for table in (one, other) if len(table)]
    joined: gpd.GeoDataFrame = pd.concat(tables, ignore_index=True) if tables else one
    return joined


def _settled(last: gpd.GeoDataFrame) -> NDArray[np.object_]:
    """The ground of each statement: what was judged, and what stands in its place; object (statements,)."""
    shapes = last.geometry.to_numpy()
    judged = np.array([known or shape for known, shape in zip(judged_outlines(last), shapes, strict=True)])
    return np.asarray(shapely.union(judged, shapes), object)


def _outside(
    drawn: gpd.GeoDataFrame, ground: NDArray[np.object_], pixel_m2: float
) -> tuple[list[int], gpd.GeoDataFrame, list[str]]:
    """Of the drawn polygons: rows that lie on no settled ground, what is left of others, ids of the gone."""
    shapes = drawn.geometry.to_numpy()
    row, hit = shapely.STRtree(ground).query(shapes, predicate="intersects")
    touched, rests, gone = set(), {}, []
    for number in np.unique(row):
        shape = shapes[number]
        rest = shapely.difference(shape, shapely.union_all(ground[hit[row == number]]))
        share = 1 - rest.area / shape.area
        # In degrees too: shares have no unit.
        m2 = drawn["area_m2"].iloc[number] / shape.area
        # Half: a pixel's own area may come out a little smaller.
        if share * shape.area * m2 < pixel_m2 / 2:
            continue
        touched.add(int(number))
        parts = [part for part in shapely.get_parts(rest) if part.geom_type == "Polygon"]
        parts = [part for part in parts if part.area * m2 >= pixel_m2]
        if share >= GIVES_WAY or not parts:
            gone.append(str(drawn["id"].iloc[number]))
        else:
            rests[str(drawn["id"].iloc[number])] = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    left = gpd.GeoDataFrame({"id": list(rests)}, geometry=list(rests.values()), crs=drawn.crs)
    return [number for number in range(len(drawn)) if number not in touched], left, gone


def _free_name(name: str, taken: set[str]) -> str:
    """Another id for what is left of a polygon whose own stands for a verdict."""
    while name in taken:
        name += REST
    return name


def _signed(polygons: gpd.GeoDataFrame, kept: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The table with who decided on a landslide, where somebody did."""
    by_id = kept.set_index("id")
    said = by_id.reindex(polygons["id"])
    return polygons.assign(
        **{
            column: pd.array(said[source].to_numpy(object), dtype="string")
            for column, source in zip(EDIT_COLUMNS, ("verdict", "editor", "edited_at"), strict=True)
        }
    )


def _in_order(polygons: gpd.GeoDataFrame, places: dict[str, int]) -> gpd.GeoDataFrame:
    """Each where it was drawn, then what was not drawn, by id."""
    drawn = [places.get(name.partition(REST)[0], len(places)) for name in polygons["id"]]
    ordered: gpd.GeoDataFrame = polygons.iloc[np.lexsort((polygons["id"].to_numpy(str), drawn))]
    return ordered.reset_index(drop=True)


def _doubled(kept: gpd.GeoDataFrame) -> tuple[tuple[str, str], ...]:
    shapes, names = kept.geometry.to_numpy(), kept["id"].to_numpy(str)
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first, second = first[first < second], second[first < second]
    smaller = np.minimum(shapely.area(shapes[first]), shapely.area(shapes[second]))
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    on_each_other = shared >= SAME * smaller
    return tuple(
        sorted(
            (str(names[one]), str(names[other]))
            for one, other in _pairs(first[on_each_other], second[on_each_other])
        )
    )


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip(first.tolist(), second.tolist(), strict=True)


def _statement(row: "pd.Series[str]") -> Statement:
    return Statement(verdict=row["verdict"], editor=row["editor"], edited_at=row["edited_at"])


def _written(records: gpd.GeoDataFrame) -> bytes:
    content = io.BytesIO()
    judged = gpd.GeoSeries(judged_outlines(records), index=records.index, crs=records.crs)
    records[list(RECORD_COLUMNS)].assign(judged=judged).to_parquet(content, index=False, compression="zstd")
    return content.getvalue()


def _parse(content: bytes) -> Edits:
    try:
        records = gpd.read_parquet(io.BytesIO(content))
        missing = [name for name in RECORD_COLUMNS if name not in records]
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise InputRefusedError(
            f"{EDITS} of the run is damaged ({error}); restore it: it holds the mappers' verdicts"
        ) from error
    if missing:
        raise InputRefusedError(f"{EDITS} of the run lacks {', '.join(missing)}; it is of another version")
    return Edits(records, hashlib.sha256(content).hexdigest())
