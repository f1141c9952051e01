"""In: event time, area and dates as the user writes them. Out: `Event`; and `Found`, a search's answer."""

import json
import math
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from coseis.errors import UsageError
from coseis.types import PHASES, Phase, Scene, Value
from coseis.usgs import UsgsEvent
from coseis.vectors import read_features

PRE_DAYS = 365
"""Default pre window: a whole year before the event, so that a scene of the same season is in it."""
POST_DAYS = 180
"""Default post window: half a year after the event; later, scars green over and new slides come in."""

MAX_AOI_VERTICES = 500_000
"""It goes to every worker with the plan; a million vertices take 25 MB of JSON. Coastlines have thousands."""

Window = tuple[AwareDatetime, AwareDatetime]
"""Start and end of a search window, both with a zone; the start is earlier than the end."""


def _default_pre(fields: dict[str, Any]) -> Window:
    return fields["time"] - timedelta(days=PRE_DAYS), fields["time"]


def _default_post(fields: dict[str, Any]) -> Window:
    return fields["time"], fields["time"] + timedelta(days=POST_DAYS)


class Event(Value):
    """One earthquake: when, where, and the dates between which scenes are looked for."""

    time: AwareDatetime
    """Origin time of the earthquake."""
    aoi: dict[str, Any]
    """Area of interest: GeoJSON Polygon or MultiPolygon, longitude and latitude in degrees, valid."""
    pre: Window = Field(default_factory=_default_pre)
    """Scenes before the event are looked for here; by default PRE_DAYS up to the event."""
    post: Window = Field(default_factory=_default_post)
    """Scenes after the event are looked for here; by default the event and POST_DAYS after it."""
    epicentre: tuple[float, float] | None = None
    """Longitude and latitude in degrees, where a file of the USGS says it."""

    @field_validator("aoi")
    @classmethod
    def _valid_area(cls, aoi: dict[str, Any]) -> dict[str, Any]:
        try:
            area = shapely.from_geojson(json.dumps(aoi))
        except (ValueError, TypeError, GEOSException) as error:
            raise ValueError(f"AOI is no GeoJSON geometry ({error})") from error
        return to_geojson(_checked_area(area))

    @model_validator(mode="after")
    def _ordered_windows(self) -> "Event":
        for phase, (start, end) in zip(PHASES, (self.pre, self.post), strict=True):
            if start >= end:
                raise ValueError(f"{phase} window starts at {start} and ends at {end}; expected start < end")
        if self.pre[0] >= self.time:
            raise ValueError(f"pre window starts at {self.pre[0]}, not before the event at {self.time}")
        if self.post[1] <= self.time:
            raise ValueError(f"post window ends at {self.post[1]}, not after the event at {self.time}")
        return self


class Refused(Value):
    """An item, or a link of the catalog, that the search could not use."""

    item_id: str
    reason: str


class Found(Value):
    """What a search found; written as items.json, so it holds no credential and no signed address."""

    event: Event
    scenes: tuple[Scene, ...]
    """Best first within each phase, pre before post. Scene.index is the place in this tuple, until an update
    of the run gives each scene the index that it had before."""
    coverage: dict[Phase, float]
    """Share of the AOI's area that the footprints of a phase's scenes cover together, 0-1."""
    refused: tuple[Refused, ...] = ()
    hosts: tuple[str, ...] = ()
    """Where the files lie: host names, buckets (s3://name), and "file" for local ones."""
    searched: str
    """What was searched and what fell out, for messages."""

    def of_phase(self, phase: Phase) -> tuple[Scene, ...]:
        """The scenes of one phase, best first."""
        return tuple(scene for scene in self.scenes if scene.phase == phase)

    def summary(self) -> tuple[dict[str, str], ...]:
        """One row a phase, ready for a table: phase, scenes, dates, kinds, AOI covered."""
        rows = []
        for phase in PHASES:
            scenes = self.of_phase(phase)
            days = sorted({f"{moment:%Y-%m-%d}" for scene in scenes for moment in (scene.start, scene.end)})
            kinds = Counter(("toa " if scene.level == "toa" else "") + scene.kind for scene in scenes)
            rows.append(
                {
                    "phase": phase,
                    "scenes": str(len(scenes)),
                    "dates": " to ".join(dict.fromkeys((*days[:1], *days[-1:]))),
                    "kinds": ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
                    "AOI covered": f"{100 * self.coverage.get(phase, 0.0):.1f} %",
                }
            )
        return tuple(rows)


def read_event(
    time: str | None,
    aoi: str | Path | None,
    *,
    pre: str | None = None,
    post: str | None = None,
    usgs: UsgsEvent | None = None,
) -> Event:
    """Read what the user wrote about an event and check all of it before any work.

    Args:
        time: ISO 8601 with a zone. A naive time is refused: read as local time or as UTC it would put
            scenes of the same day on the wrong side of the event. None: that of `usgs`.
        aoi: `west,south,east,north` in degrees, or a vector file (GeoJSON, GeoPackage, shapefile, also
            zipped, FlatGeobuf, GeoParquet) in any CRS; its polygons are joined, made valid and brought to
            longitude and latitude.
        pre: ISO interval `start/end`; a date alone is a whole UTC day. Default: PRE_DAYS up to the event.
        post: The same after the event. Default: POST_DAYS.
        usgs: What a file of the USGS says of the event; what the user says goes first.

    Returns:
        The event: time and windows in UTC, the area as GeoJSON in longitude and latitude, degrees.

    Raises:
        UsageError: time or AOI that neither says; time without zone; AOI unreadable, empty, without area,
            out of range or across the antimeridian; window that is no interval or lies on the wrong side of
            the event.
    """
    usgs = usgs or UsgsEvent()
    moment = usgs.time if time is None else _parse_moment(time, "event time")
    area = usgs.area if aoi is None else read_area(aoi)
    if moment is None:
        raise UsageError("the event file holds contours only, which say no time; give --event-time")
    if area is None:
        there = f", such as {usgs.shakemap}" if usgs.shakemap else ""
        raise UsageError(
            "the event file says where it began, not how far it shook; give --aoi, or as --event the "
            f"grid.xml of its ShakeMap{there}"
        )
    fields: dict[str, Any] = {"time": moment, "aoi": area, "epicentre": usgs.epicentre}
    if pre is not None:
        fields["pre"] = _parse_window(pre, "pre window")
    if post is not None:
        fields["post"] = _parse_window(post, "post window")
    try:
        return Event(**fields)
    except ValidationError as error:
        raise UsageError("; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())) from error
    except OverflowError as error:
        raise UsageError(f"event time {moment} leaves no room for the search windows") from error


def read_area(aoi: str | Path) -> dict[str, Any]:
    """An area as the user writes it, as GeoJSON in longitude and latitude; see `read_event`.

    Raises:
        UsageError: as `read_event` of an AOI.
    """
    return to_geojson(_read_area(aoi))


def to_geojson(geometry: BaseGeometry) -> dict[str, Any]:
    """A shape as a plain GeoJSON geometry: lists only, so that it equals itself read back from JSON."""
    geojson: dict[str, Any] = json.loads(shapely.to_geojson(geometry))
    return geojson


def _parse_moment(text: str, what: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"{what} {text!r} is no ISO 8601 time; write e.g. 2018-09-05T18:08:00Z") from error
    if moment.tzinfo is None:
        raise UsageError(f"{what} {text!r} has no zone; write e.g. 2018-09-05T18:08:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise UsageError(f"{what} {text!r} is out of range") from error


def _parse_window(text: str, what: str) -> tuple[datetime, datetime]:
    parts = text.split("/")
    if len(parts) != 2:
        raise UsageError(f"{what} {text!r} is no interval; write start/end, e.g. 2018-06-01/2018-09-05")
    days = [_parse_day(part) for part in parts]
    start = days[0] or _parse_moment(parts[0], f"start of the {what}")
    try:
        # The last day of a window belongs to it whole.
        end = days[1] + timedelta(days=1) if days[1] else _parse_moment(parts[1], f"end of the {what}")
    except OverflowError as error:
        raise UsageError(f"{what} {text!r} is out of range") from error
    return start, end


def _parse_day(text: str) -> datetime | None:
    try:
        return datetime.combine(date.fromisoformat(text.strip()), time(), tzinfo=UTC)
    except ValueError:
        return None


def _read_area(aoi: str | Path) -> BaseGeometry:
    box = _parse_box(str(aoi))
    path = Path(aoi).expanduser()
    if box is None and not path.exists():
        raise UsageError(f"AOI {str(aoi)!r} is neither west,south,east,north in degrees nor an existing file")
    try:
        return _checked_area(_box_area(box) if box is not None else _read_area_file(path))
    except ValueError as error:
        raise UsageError(f"{error} (AOI {str(aoi)!r})") from error


def _parse_box(text: str) -> tuple[float, ...] | None:
    parts = text.split(",")
    try:
        return tuple(float(part) for part in parts) if len(parts) == 4 else None
    except ValueError:
        return None


def _box_area(box: tuple[float, ...]) -> BaseGeometry:
    if not all(math.isfinite(edge) for edge in box):
        raise ValueError("AOI box holds a number that is not finite")
    west, south, east, north = box
    if west >= east:
        raise ValueError(
            f"AOI west {west} is not less than east {east}; expected west,south,east,north. "
            "An area across the antimeridian is mapped in two runs, one each side of it"
        )
    if south >= north:
        raise ValueError(f"AOI south {south} is not less than north {north}; expected west,south,east,north")
    return shapely.box(west, south, east, north)


def _read_area_file(path: Path) -> BaseGeometry:
    try:
        features = read_features(path)
    except ValueError as error:
        raise ValueError(f"AOI file cannot be read as vector data: {error}") from error
    vertices = int(shapely.get_num_coordinates(features.shapes.to_numpy()).sum())
    if vertices > MAX_AOI_VERTICES:
        raise ValueError(
            f"AOI file has {vertices} vertices; expected at most {MAX_AOI_VERTICES}: simplify it, "
            "e.g. `ogr2ogr -simplify 0.0001 out.gpkg in.gpkg`"
        )
    frame = features.shapes
    geometry = frame.dropna()
    types = sorted(set(geometry.geom_type))
    if not types:
        raise ValueError("AOI file is empty")
    if not set(types) <= {"Polygon", "MultiPolygon"}:
        raise ValueError(f"AOI file holds {', '.join(types)}; expected polygons only")
    if frame.crs is None:
        raise ValueError("AOI file states no CRS; add one, e.g. `ogr2ogr -a_srs EPSG:4326 out.gpkg in.shp`")
    if frame.crs.is_projected:
        # A straight edge of a projected map is bent in degrees: a 200 km one by almost a kilometre.
        west, south, east, north = geometry.total_bounds
        geometry = geometry.segmentize(max(east - west, north - south, 1.0) / 64)
    degrees = geometry.to_crs("OGC:CRS84")
    if not np.isfinite(degrees.total_bounds).all():
        raise ValueError(f"AOI file has coordinates outside the range of its CRS {frame.crs.to_string()}")
    # Made valid before the union too: GEOS refuses to join rings that cross themselves.
    polygons = shapely.make_valid(np.asarray(degrees), method="structure", keep_collapsed=False)
    return shapely.union_all(polygons)


def _checked_area(area: BaseGeometry) -> BaseGeometry:
    """The area as a valid 2-D polygon. Raises ValueError where it cannot be one in degrees."""
    if area.is_empty:
        raise ValueError("AOI is empty")
    if area.geom_type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"AOI is a {area.geom_type}; expected a Polygon or MultiPolygon")
    west, south, east, north = area.bounds
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise ValueError(
            f"AOI reaches {west:g},{south:g},{east:g},{north:g}; expected degrees, longitude -180 to 180 "
            "and latitude -90 to 90"
        )
    if east - west > 180:
        raise ValueError(
            f"AOI spans {east - west:g} degrees of longitude; one across the antimeridian is mapped in two "
            "runs, one each side of it"
        )
    valid = shapely.make_valid(shapely.force_2d(area), method="structure", keep_collapsed=False)
    if valid.area == 0:
        raise ValueError("AOI has no area")
    return valid
