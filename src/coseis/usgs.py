"""A file of the USGS about an earthquake goes in; when, where, and the area that shook hard come out.

Read are the event's GeoJSON, and of its ShakeMap the grid (grid.xml) and the contours (cont_mmi.json,
cont_pga.json). Nothing is fetched.

Reference: https://earthquake.usgs.gov/earthquakes/feed/v1.0/geojson_detail.php describes the event,
https://ghsc.code-pages.usgs.gov/esi/shakemap/manual4_0/ug_products.html the ShakeMap.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import AwareDatetime
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from coseis.errors import UsageError
from coseis.types import MIN_INTENSITY, Value

MAX_FILE_BYTES = 64 * 2**20
"""A grid of 1000 x 1000 points has some 60 MB; those of the USGS have a tenth of that."""
MAX_POINTS = 4_000_000
GRAVITY_CM_S2 = 980.665

_EXPECTED = "expected a USGS event (GeoJSON) or its ShakeMap (grid.xml, cont_mmi.json or cont_pga.json)"


class UsgsEvent(Value):
    """What a file of the USGS says of one earthquake; what it does not say is None."""

    time: AwareDatetime | None = None
    """Origin time."""
    epicentre: tuple[float, float] | None = None
    """Longitude and latitude, degrees."""
    area: dict[str, Any] | None = None
    """Where it shook at least as hard as asked for: GeoJSON, longitude and latitude, holes filled."""
    shakemap: str | None = None
    """Address of the event's ShakeMap grid, where an event file names it."""


def read_usgs(path: Path, *, min_intensity: float = MIN_INTENSITY) -> UsgsEvent:
    """Read a file of the USGS; see `parse_usgs`.

    Raises:
        UsageError: as `parse_usgs`, and a file that is missing or too large. The file is named.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"event file {path} cannot be read ({error.strerror})") from error
    try:
        return parse_usgs(content, min_intensity=min_intensity)
    except ValueError as error:
        raise UsageError(f"event file {path}: {error}") from error


def parse_usgs(content: bytes, *, min_intensity: float = MIN_INTENSITY) -> UsgsEvent:
    """What a file of the USGS says, whichever of the four it is.

    An event file says when and where. A grid says that and how hard it shook; its area is made of whole
    cells. Contours say how hard it shook only. Of contours the greatest at or below the intensity counts;
    those of acceleration are compared with the acceleration of that intensity. What lies within an area is
    taken with it: a hole is where soft ground ends, and rock slopes slide too.

    Args:
        content: The file.
        min_intensity: Modified Mercalli intensity, 1-10, that bounds the area.

    Raises:
        ValueError: none of these files, damaged, larger than MAX_FILE_BYTES, or nowhere as intense.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return _parse_grid(content, min_intensity)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is neither JSON nor XML; {_EXPECTED}") from error
    features = document.get("features", [document]) if isinstance(document, dict) else []
    features = [feature for feature in features if isinstance(feature, dict)] if features else []
    if any("value" in _mapping(feature, "properties") for feature in features):
        return UsgsEvent(area=_within_contours(features, min_intensity))
    if len(features) != 1 or "time" not in _mapping(features[0], "properties"):
        raise ValueError(f"it holds {len(features)} features, not one event; {_EXPECTED}")
    return _parse_event(features[0])


def acceleration_of(intensity: float) -> float:
    """Peak ground acceleration, percent of g, of a Modified Mercalli intensity.

    Reference: Worden et al. 2012, doi:10.1785/0120110156, for California, without its terms of magnitude and
    distance; ShakeMap's own default.
    """
    # Two lines over log10 of cm/s2 that meet at 1.57.
    exponent = (intensity - 1.78) / 1.55 if intensity <= 4.22 else (intensity + 1.60) / 3.70
    return float(100 * 10**exponent / GRAVITY_CM_S2)


def _parse_event(feature: Mapping[str, Any]) -> UsgsEvent:
    properties, geometry = _mapping(feature, "properties"), _mapping(feature, "geometry")
    milliseconds = properties["time"]
    try:
        time = datetime.fromtimestamp(milliseconds / 1000, UTC)
        longitude, latitude, *_ = geometry["coordinates"]
        epicentre = _place(longitude, latitude)
    except (TypeError, ValueError, KeyError, OverflowError, OSError) as error:
        raise ValueError(
            f"its time {milliseconds!r} or place {geometry.get('coordinates')!r} cannot be read; expected "
            "milliseconds since 1970, and longitude, latitude, depth"
        ) from error
    maps = _mapping(properties, "products").get("shakemap")
    contents = _mapping(maps[0], "contents") if isinstance(maps, list) and maps else {}
    address = _mapping(contents, "download/grid.xml").get("url")
    secure = isinstance(address, str) and address.startswith("https://")
    return UsgsEvent(time=time, epicentre=epicentre, shakemap=address if secure else None)


def _parse_grid(content: bytes, min_intensity: float) -> UsgsEvent:
    tags, table = _read_grid_xml(content)
    try:
        (event,), (shape,) = tags["event"], tags["grid_specification"]
        time = _moment(event["event_timestamp"])
        epicentre = _place(event["lon"], event["lat"])
        rows, columns = int(shape["nlat"]), int(shape["nlon"])
        fields = {field["name"].upper(): int(field["index"]) - 1 for field in tags["grid_field"]}
        places = [fields[name] for name in ("LON", "LAT", "MMI")]
    except (KeyError, ValueError) as error:
        raise ValueError(f"it is no ShakeMap grid: {error} missing or wrong; {_EXPECTED}") from error
    if not (min(rows, columns) > 1 and rows * columns <= MAX_POINTS):
        raise ValueError(f"its grid has {rows} x {columns} points; expected 2 x 2 to {MAX_POINTS} in all")
    try:
        values = np.loadtxt(io.StringIO(table), ndmin=2, comments=None, usecols=places)
        longitude, latitude, intensity = values.T.reshape(3, rows, columns)
    except ValueError as error:
        raise ValueError(f"its grid is not {rows} x {columns} rows of {len(fields)} numbers") from error
    if not (np.diff(longitude[0]) > 0).all() or not (np.diff(latitude[:, 0]) < 0).all():
        raise ValueError("its grid does not go eastward and southward from its north-western corner")
    cells = _cells(longitude[0], latitude[:, 0], intensity >= min_intensity)
    if not cells:
        raise ValueError(
            f"it shook nowhere at intensity {min_intensity:g}, at most at {intensity.max():g}; "
            "give a lower --min-intensity, or --aoi"
        )
    return UsgsEvent(time=time, epicentre=epicentre, area=_filled(cells))


def _read_grid_xml(content: bytes) -> tuple[dict[str, list[dict[str, str]]], str]:
    """The attributes of each kind of element, and the text of grid_data.

    A document type is refused outright: a ShakeMap has none, and entities that grow or that name files of
    this machine are declared in one.
    """
    tags: dict[str, list[dict[str, str]]] = {}
    table: list[str] = []
    inside: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        tags.setdefault(name, []).append(attributes)

    def text(part: str) -> None:
        if inside[-1:] == ["grid_data"]:
            table.append(part)

    def refuse(*_: object) -> None:
        raise ValueError(f"it declares a document type, which no ShakeMap has; {_EXPECTED}")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: inside.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is damaged XML ({error})") from error
    return tags, "".join(table)


def _cells(
    longitude: NDArray[np.float64], latitude: NDArray[np.float64], shaken: NDArray[np.bool_]
) -> list[BaseGeometry]:
    """Rectangles around the points where it is true, neighbours in a row joined.

    Args:
        longitude: float64 (x,), degrees, eastward.
        latitude: float64 (y,), degrees, southward.
        shaken: bool (y, x).
    """
    west_to_east, north_to_south = _edges(longitude), _edges(latitude)
    found = []
    for row, runs in enumerate(np.diff(np.pad(shaken, ((0, 0), (1, 1))).astype(np.int8))):
        south, north = north_to_south[row + 1], north_to_south[row]
        for first, last in zip(np.flatnonzero(runs == 1), np.flatnonzero(runs == -1), strict=True):
            found.append(shapely.box(west_to_east[first], south, west_to_east[last], north))
    return found


def _edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where cells end: half-way between their points, and as far beyond the outermost."""
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def _within_contours(features: list[dict[str, Any]], min_intensity: float) -> dict[str, Any]:
    levels: dict[float, list[Mapping[str, Any]]] = {}
    units = set()
    for feature in features:
        properties = _mapping(feature, "properties")
        value = properties.get("value")
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"one of its contours has the value {value!r}; expected a number")
        levels.setdefault(float(value), []).append(_mapping(feature, "geometry"))
        units.add(str(properties.get("units")).lower())
    if units <= {"mmi", "intensity"}:
        least, unit = min_intensity, "MMI"
    elif units <= {"pctg", "%g"}:
        least, unit = acceleration_of(min_intensity), "% of g"
    else:
        raise ValueError(f"its contours are in {', '.join(sorted(units))}; expected mmi, or pctg (% of g)")
    below = [level for level in levels if level <= least]
    if not below:
        raise ValueError(
            f"its least contour is {min(levels):g} {unit}, but intensity {min_intensity:g} is "
            f"{least:.3g} {unit}; give a higher --min-intensity, the ShakeMap's grid.xml, or --aoi"
        )
    rings = [ring for geometry in levels[max(below)] for ring in _rings(geometry)]
    if max(levels) < least:
        raise ValueError(
            f"its greatest contour is {max(levels):g} {unit}, below intensity {min_intensity:g} "
            f"({least:.3g} {unit}); give a lower --min-intensity, or --aoi"
        )
    return _filled(rings)


def _rings(geometry: Mapping[str, Any]) -> Iterator[BaseGeometry]:
    """The polygons within a contour's lines."""
    try:
        lines = shapely.get_parts(shapely.from_geojson(json.dumps(geometry)))
    except (ValueError, TypeError, GEOSException) as error:
        raise ValueError("one of its contours has no readable geometry") from error
    for line in lines:
        if line.geom_type != "LineString" or not line.is_closed or len(line.coords) < 4:
            raise ValueError(
                "the contour of that intensity is cut off by the edge of the map; take the ShakeMap's "
                "grid.xml, or give --aoi"
            )
        yield shapely.make_valid(shapely.Polygon(line.coords), method="structure", keep_collapsed=False)


def _filled(shapes: list[BaseGeometry]) -> dict[str, Any]:
    """The union without its holes, as GeoJSON of lists."""
    parts = shapely.get_parts(shapely.union_all(shapes))
    whole = shapely.union_all([shapely.Polygon(part.exterior) for part in parts if part.area > 0])
    area: dict[str, Any] = json.loads(shapely.to_geojson(whole))
    return area


def _moment(text: str) -> datetime:
    """A ShakeMap's time: with Z, an offset, or the letters of the zone, of which only UTC's are known."""
    stem = text.strip()
    for zone in ("UTC", "GMT"):
        stem = stem.removesuffix(zone) + "Z" if stem.endswith(zone) else stem
    moment = datetime.fromisoformat(stem)
    if moment.tzinfo is None:
        raise ValueError(f"event_timestamp {text!r} without a known zone")
    return moment.astimezone(UTC)


def _place(longitude: float | str, latitude: float | str) -> tuple[float, float]:
    place = float(longitude), float(latitude)
    if not (abs(place[0]) <= 360 and abs(place[1]) <= 90):
        raise ValueError(f"place {place}")
    # Maps across the antimeridian count on beyond 180 degrees.
    turns = round(place[0] / 360)
    return place[0] - 360 * turns, place[1]


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key) if isinstance(document, Mapping) else None
    return value if isinstance(value, Mapping) else {}
