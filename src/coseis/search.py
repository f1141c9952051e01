"""In: a catalog, an event, what the model reads. Out: scenes before and after, best first, or why none."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import numpy as np
import shapely
import shapely.geometry
from pydantic import Field, model_validator
from pyproj import Transformer
from shapely.errors import GEOSException
from shapely.geometry.base import BaseGeometry

from coseis.addresses import (
    AddressPolicy,
    AddressRefusedError,
    absolute_address,
    check_address,
    host_of,
    public_form,
    reach_of,
)
from coseis.assets import MissingBandsError, resolve_assets
from coseis.catalogs import Content, Query, Record, catalog_address, read_catalog
from coseis.errors import InputRefusedError, UsageError
from coseis.event import Event, Found, Refused, to_geojson
from coseis.items import clean_fields, clean_item, provider_names, shown_id
from coseis.season import order_scenes, why_snowy, why_unlike
from coseis.types import PHASES, InputKind, Phase, Scene, Value

WITHOUT_BANDS = "without the model's bands"
CLOUD_FIELDS = ("eo:cloud_cover",)
SNOW_FIELDS = ("eo:snow_cover", "pl:snow_ice_percent", "snow_ice_percent")
"""Percent; the last as in Planet's Data API."""
NAMED_ITEMS = 3
"""Refused items that a message names; all are in Found.refused."""
MAX_FOOTPRINT_VERTICES = 10_000
"""It goes to every worker; those of real scenes have 5 to 100."""
MOST_DEGREES = 540
"""Footprints across the antimeridian count on beyond 180."""
EQUAL_AREA = "EPSG:6933"
"""Cylindrical, so that edges along meridians and parallels stay straight."""


class SearchFilters(Value):
    """Which of the items in the area and the dates are used."""

    max_cloud: Annotated[float, Field(ge=0, le=100)] | None = None
    """Most cloud cover, percent; an item that states none passes."""
    max_snow: Annotated[float, Field(ge=0, le=100)] = 10
    """Most snow before the event, percent; an item that states none passes."""
    quality: tuple[str, ...] = ("standard",)
    """Accepted values of `pl:quality_category`; an item that states none passes. Empty: any."""
    include: tuple[str, ...] = ()
    """Item ids used whatever their cloud cover, snow and quality; one whose interval straddles the event
    counts as post, for the slides that it shows may be of the event."""
    exclude: tuple[str, ...] = ()
    """Item ids never used."""
    kinds: tuple[InputKind, ...] = ("display", "reflectance")
    """Kinds of numbers that the model reads, the preferred one first."""

    @model_validator(mode="after")
    def _disjoint(self) -> "SearchFilters":
        both = sorted(set(self.include) & set(self.exclude))
        if both:
            raise UsageError(f"{', '.join(both)} cannot be included and excluded")
        return self


class _Candidate(NamedTuple):
    """An item that lies in the area and the dates and passes the filters."""

    record: Record
    phase: Phase
    start: datetime
    end: datetime
    footprint: BaseGeometry


class _LeftOut(NamedTuple):
    """An item that is not used."""

    tally: str
    """Class of the reason, for the count that a message gives."""
    reason: str = ""
    """The reason in full where the item is to be listed by name."""


def search_items(
    catalog: str,
    event: Event,
    *,
    collections: Sequence[str] = (),
    bands: Sequence[str] = ("red", "green", "blue"),
    filters: SearchFilters | None = None,
    policy: AddressPolicy | None = None,
    allow_missing_pre: bool = False,
) -> Found:
    """Find the scenes of an event in a catalog and say where their bands are stored. No pixel is read.

    An item counts by its datetime, or by its start and end where that is null: `pre` if it ends by the event,
    `post` if it starts at or after it, and in both cases if it touches the phase's window. An item that
    straddles the event is refused by name unless it is included; so is one before it whose item says snow.
    `season.order_scenes` says which come first.

    Args:
        catalog: STAC API, static catalog or collection (address, file or folder), an ItemCollection or a
            stac-geoparquet file.
            Planet's API gets its key from PL_API_KEY.
        event: Time, area and windows.
        collections: Ids to search; empty: all.
        bands: STAC common names that the model reads.
        filters: Cloud cover, quality, ids and kinds.
        policy: Hosts and folders that the assets may lie on beside the catalog's own.
        allow_missing_pre: Accept an event without any scene before it.

    Returns:
        The scenes, best first within each phase, the share of the area that each phase's footprints cover
        (0-1), where the files lie, and the items that were refused with their reasons.

    Raises:
        UsageError: items fit, but none has the bands.
        InputRefusedError: no catalog, unknown collection, an asset on a host that is not allowed, an included
            id that is not there, or no scene for a phase (the message says what was searched).
        UnreachableError: the catalog does not answer.
    """
    filters = filters or SearchFilters()
    address = catalog_address(catalog)
    bound = (policy or AddressPolicy()).bound_to(address)
    aoi = shapely.geometry.shape(event.aoi)
    west, south, east, north = aoi.bounds
    query = Query(collections, (west, south, east, north), (event.pre, event.post))
    content = read_catalog(address, query, bound)
    scenes, refused, tally = _select(content, event, aoi, bands, filters, bound)
    searched = _describe(address, query, tally)
    _check_included(filters.include, content.records, searched)
    for phase in ("post", "pre"):
        if not (phase == "pre" and allow_missing_pre) and not any(s.phase == phase for s in scenes):
            if tally[WITHOUT_BANDS] and not scenes:
                raise UsageError(_why_no_bands(bands, refused, searched))
            raise InputRefusedError(_why_none(phase, tally, refused, searched))
    sources = [source for scene in scenes for source in (*scene.sources, scene.udm2) if source]
    return Found(
        event=event,
        scenes=tuple(scenes),
        coverage={phase: share_covered(aoi, [s for s in scenes if s.phase == phase]) for phase in PHASES},
        refused=tuple(refused),
        hosts=tuple(sorted({host_of(source.href) for source in sources})),
        searched=searched,
    )


def drop_unlike(
    found: Found, *, max_snow: float, include: Sequence[str] = (), allow_missing_pre: bool = False
) -> Found:
    """What was found, its scenes measured, without those before the event that would mislead.

    Against snow or bare trees every slope has changed: such a scene separates landslides worse than the
    scenes after the event do alone. See `season.why_unlike`.

    Args:
        found: Its scenes have `cover`; those without it pass.
        max_snow: Percent of white pixels before the event beyond those after it.
        include: Item ids that stay whatever they show.
        allow_missing_pre: Accept that none is left.

    Raises:
        InputRefusedError: no scene before the event is left.
    """
    kept: list[Scene] = []
    refused: list[Refused] = []
    for scene in found.scenes:
        judged = scene.phase == "pre" and scene.item_id not in include
        reason = why_unlike(scene, found.of_phase("post"), max_snow) if judged else None
        if reason is None:
            kept.append(scene.model_copy(update={"index": len(kept)}))
        else:
            hint = f"; to use it: --include {scene.item_id}"
            refused.append(Refused(item_id=scene.item_id, reason=reason + hint))
    if not refused:
        return found
    tally = Counter({"unlike the scenes after the event": len(refused)})
    if not (allow_missing_pre or any(scene.phase == "pre" for scene in kept)):
        raise InputRefusedError(_why_none("pre", tally, refused, found.searched))
    aoi, before = shapely.geometry.shape(found.event.aoi), [s for s in kept if s.phase == "pre"]
    return found.model_copy(
        update={
            "scenes": tuple(kept),
            "refused": (*found.refused, *refused),
            "coverage": {**found.coverage, "pre": share_covered(aoi, before)},
            "searched": f"{found.searched}, of them {len(refused)} unlike the scenes after the event",
        }
    )


def _select(
    content: Content,
    event: Event,
    aoi: BaseGeometry,
    bands: Sequence[str],
    filters: SearchFilters,
    policy: AddressPolicy,
) -> tuple[list[Scene], list[Refused], Counter[str]]:
    """The scenes in their final order, the items refused by name, and how many items fell out why."""
    scenes: list[Scene] = []
    refused = list(content.refused)
    tally: Counter[str] = Counter()
    forbidden: dict[str, str] = {}
    tally["seen"] = len(content.records)
    for (_, item_id), record in _clean(content.records, refused, tally).items():
        candidate = _examine(record, event, aoi, filters)
        if isinstance(candidate, _Candidate):
            try:
                scenes.append(_build_scene(candidate, bands, filters.kinds, policy))
            except AddressRefusedError as error:
                if error.host:
                    forbidden.setdefault(error.host, f"item {item_id}: {error}")
                else:
                    candidate = _LeftOut("without usable assets", str(error))
            except MissingBandsError as error:
                candidate = _LeftOut(WITHOUT_BANDS, str(error))
            except InputRefusedError as error:
                candidate = _LeftOut("without usable assets", str(error))
        if isinstance(candidate, _LeftOut):
            tally[candidate.tally] += 1
            asked = f"it is {candidate.tally}" if item_id in filters.include else ""
            if reason := candidate.reason or asked:
                refused.append(Refused(item_id=item_id, reason=reason))
    if forbidden:
        # All hosts at once, so that the user decides once.
        raise InputRefusedError("; ".join(forbidden.values()) + "; or leave such items out: --exclude ID")
    known = {item.item.get("id") for item in content.records if isinstance(item.item.get("id"), str)}
    for item_id in sorted(set(filters.exclude) - known):
        refused.append(Refused(item_id=item_id, reason="it is excluded, but no such item was found"))
    tally["used"] = len(scenes)
    scenes = order_scenes(scenes, event.time, aoi)
    return [s.model_copy(update={"index": index}) for index, s in enumerate(scenes)], refused, tally


def _clean(
    records: Sequence[Record], refused: list[Refused], tally: Counter[str]
) -> dict[tuple[str, str], Record]:
    """The records by collection and id, each once, their items and collections plain."""
    unique: dict[tuple[str, str], Record] = {}
    for record in records:
        try:
            item = clean_item(record.item)
        except InputRefusedError as error:
            refused.append(Refused(item_id=shown_id(record.item), reason=str(error)))
            tally["without a usable id"] += 1
            continue
        key = item.get("collection", ""), item["id"]
        tally["seen"] -= key in unique
        unique[key] = Record(item, record.address, clean_fields(record.collection))
    return unique


def _examine(
    record: Record, event: Event, aoi: BaseGeometry, filters: SearchFilters
) -> _Candidate | _LeftOut:
    item_id, properties = record.item["id"], record.item["properties"]
    footprint = _footprint(record.item)
    if footprint is None:
        return _LeftOut("without a footprint", "it has neither a readable geometry nor a bbox")
    if footprint.intersection(aoi).area == 0:
        return _LeftOut("outside the AOI")
    interval = _interval(properties)
    if interval is None:
        return _LeftOut("without a date", "it has no readable datetime, nor start_datetime and end_datetime")
    start, end = interval
    straddles = start < event.time < end
    phase: Phase = "pre" if end <= event.time else "post"
    window = event.pre if phase == "pre" else event.post
    if start > window[1] or end < window[0]:
        return _LeftOut("outside the windows")
    if item_id in filters.exclude:
        return _LeftOut("excluded")
    if item_id not in filters.include:
        cloud_cover = _percent(properties, CLOUD_FIELDS)
        if straddles:
            reason = f"its interval {start:%Y-%m-%dT%H:%MZ} to {end:%Y-%m-%dT%H:%MZ} straddles the event"
            return _LeftOut("straddling the event", f"{reason}; to use it as post: --include {item_id}")
        if filters.max_cloud is not None and cloud_cover is not None and cloud_cover > filters.max_cloud:
            return _LeftOut(f"cloudier than {filters.max_cloud:g} %")
        snowy = why_snowy(_percent(properties, SNOW_FIELDS), filters.max_snow) if phase == "pre" else None
        if snowy:
            tally = f"snowier than {filters.max_snow:g} %"
            return _LeftOut(tally, f"{snowy}; to use it: --include {item_id}")
        quality = properties.get("pl:quality_category")
        if filters.quality and quality is not None and quality not in filters.quality:
            return _LeftOut(f"of another quality than {' or '.join(filters.quality)}")
    return _Candidate(record, phase, start, end, footprint)


def _build_scene(
    candidate: _Candidate, bands: Sequence[str], kinds: Sequence[InputKind], policy: AddressPolicy
) -> Scene:
    item, base, collection = candidate.record
    properties = item["properties"]
    resolved = resolve_assets(
        item, bands, kinds, admit=lambda href: check_address(absolute_address(href, base), policy)
    )
    providers = provider_names(properties.get("providers") or collection.get("providers"))
    name = item.get("collection") or collection.get("id")
    licence = properties.get("license") or collection.get("license")
    return Scene(
        index=0,  # given when all scenes are in order
        item_id=item["id"],
        collection=str(name) if name else None,
        phase=candidate.phase,
        kind=resolved.kind,
        sources=resolved.sources,
        start=candidate.start,
        end=candidate.end,
        cloud_cover=_percent(properties, CLOUD_FIELDS),
        resolution_m=resolved.resolution_m,
        geometry=to_geojson(candidate.footprint),
        udm2=resolved.udm2,
        attribution=providers or None,
        licence=str(licence) if licence else None,
        level=resolved.level,
        sun_azimuth_deg=_degrees(properties, "view:sun_azimuth"),
        sun_elevation_deg=_degrees(properties, "view:sun_elevation"),
        off_nadir_deg=_degrees(properties, "view:off_nadir"),
        reach=reach_of(policy),
    )


def _footprint(item: dict[str, Any]) -> BaseGeometry | None:
    try:
        if item.get("geometry"):
            footprint = shapely.from_geojson(json.dumps(item["geometry"]))
        else:
            numbers = [float(number) for number in item["bbox"]]
            corner = len(numbers) // 2  # a bbox may have heights
            footprint = shapely.box(numbers[0], numbers[1], numbers[corner], numbers[corner + 1])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, GEOSException):
        return None
    sides = np.abs(shapely.bounds(footprint))
    # NaN, of what is empty or holds one, is not within either.
    within = bool((sides <= MOST_DEGREES).all())
    if not within or shapely.get_num_coordinates(footprint) > MAX_FOOTPRINT_VERTICES:
        return None
    # The default would keep a spike as a line, in a collection that no grid understands.
    footprint = shapely.make_valid(footprint, method="structure", keep_collapsed=False)
    if footprint.geom_type not in ("Polygon", "MultiPolygon") or footprint.area == 0:
        return None
    return shapely.force_2d(footprint)


def _interval(properties: dict[str, Any]) -> tuple[datetime, datetime] | None:
    # Planet's Data API says `acquired`; its items get as far as the reason why they cannot be read.
    moment = properties.get("datetime") or properties.get("acquired")
    ends = (moment, moment) if moment else (properties.get("start_datetime"), properties.get("end_datetime"))
    try:
        start, end = (datetime.fromisoformat(str(text)) for text in ends)
        # STAC times are UTC, said or not.
        start, end = (time if time.tzinfo else time.replace(tzinfo=UTC) for time in (start, end))
        start, end = start.astimezone(UTC), end.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return (start, end) if start <= end else None


def _percent(properties: dict[str, Any], names: Sequence[str]) -> float | None:
    """The first of some fields that holds a percentage."""
    values = (properties.get(name) for name in names)
    return next((float(v) for v in values if isinstance(v, int | float) and 0 <= v <= 100), None)


def _degrees(properties: dict[str, Any], name: str) -> float | None:
    value = properties.get(name)
    return float(value) if isinstance(value, int | float) and abs(value) <= 360 else None


def share_covered(aoi: BaseGeometry, scenes: Sequence[Scene]) -> float:
    """Share of an area, in longitude and latitude, that the footprints of scenes cover together, 0-1."""
    footprints = [shapely.geometry.shape(scene.geometry) for scene in scenes]
    covered = shapely.intersection(shapely.union_all(footprints), aoi)
    project = Transformer.from_crs("OGC:CRS84", EQUAL_AREA, always_xy=True).transform
    areas = [
        shapely.transform(shape, lambda xy: np.column_stack(project(*xy.T))).area for shape in (covered, aoi)
    ]
    return min(1.0, float(areas[0] / areas[1]))


def _describe(address: str, query: Query, tally: Counter[str]) -> str:
    where = f"collection {', '.join(query.collections)}" if query.collections else "all collections"
    box = ",".join(f"{edge:.4f}" for edge in query.bbox)
    dates = ", ".join(
        f"{phase} {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        for phase, (start, end) in zip(PHASES, query.windows, strict=True)
    )
    fell_out = "".join(f", {count} {reason}" for reason, count in tally.items() if reason != "seen")
    return f"{where} of {public_form(address)}, AOI {box}, {dates}: {tally['seen']} items seen{fell_out}"


def _why_none(phase: Phase, tally: Counter[str], refused: Sequence[Refused], searched: str) -> str:
    if 0 < tally["seen"] == tally["outside the AOI"]:
        what = "the AOI lies outside every scene"
    else:
        what = f"no scene {'before' if phase == 'pre' else 'after'} the event"
    named = "".join(f"; {item.item_id}: {item.reason}" for item in refused[:NAMED_ITEMS])
    more = f"; and {len(refused) - NAMED_ITEMS} more" if len(refused) > NAMED_ITEMS else ""
    hint = f"Widen --{phase}, --aoi or the filters"
    if phase == "pre":
        hint += ", or go on with scenes after the event only: --allow-missing-pre"
    return f"{what}. Searched {searched}{named}{more}. {hint}"


def _why_no_bands(bands: Sequence[str], refused: Sequence[Refused], searched: str) -> str:
    named = "; ".join(f"{item.item_id}: {item.reason}" for item in refused[:NAMED_ITEMS])
    return (
        f"the model reads {', '.join(bands)}, and no item has them all. Searched {searched}; {named}. "
        "Choose another --model or --collection"
    )


def _check_included(include: Sequence[str], records: Sequence[Record], searched: str) -> None:
    known = {record.item.get("id") for record in records if isinstance(record.item.get("id"), str)}
    missing = [item_id for item_id in include if item_id not in known]
    if missing:
        raise InputRefusedError(f"no item {', '.join(missing)} to include. Searched {searched}")
