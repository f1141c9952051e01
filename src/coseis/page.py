"""What a run found goes in; the map page comes out: index.html, its scripts, and map.json, which it shows.

The page is the same for every run, byte by byte; whatever depends on data is in map.json, which its scripts
set as text and never as HTML.
"""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any

import geopandas as gpd
import numpy as np
from obstore.store import ObjectStore
from pydantic import AwareDatetime, ValidationError

from coseis.objects import get_object, put_object
from coseis.publish import upload
from coseis.types import Value

PAGE = "index.html"
FACTS = "map.json"
ASSETS = "web"
"""Folder of the page's scripts, style, font and licences, in the run as in the package."""
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".geojson": "application/geo+json",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
    ".pmtiles": "application/vnd.pmtiles",
    ".png": "image/png",
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""By the ending of a name: of what a browser may ask for. Modules run only as text/javascript."""
STEPS = 100
"""The slider of the page has this many steps from 0 to 1."""
FILTERS = ("probability_mean", "probability_max")
"""Attributes that the page filters polygons by."""


class MapLayers(Value):
    """Which raster layers a run's page has."""

    pre: bool
    post: bool
    """Whether pre.pmtiles and post.pmtiles are there."""
    codes: bool
    """Whether codes.pmtiles is: red is the probability code, green the status."""
    min_zoom: int
    max_zoom: int
    """Of all of them; tiles are 512 px."""
    statuses: tuple[int, ...]
    """Values of `status` that occur, with the bit where it is set."""
    withheld: str
    """Why there are no images, a sentence; empty if they may be published."""
    unread_blocks: int
    """Blocks of tiles that are missing from the images because a scene could not be read."""


class MapFacts(Value):
    """map.json: all that the page shows and does not take from tiles."""

    event_time: AwareDatetime
    grade: str
    """Of the product, as people read it."""
    bounds: tuple[float, float, float, float]
    """West, south, east, north of the AOI, degrees."""
    aoi: dict[str, Any]
    """GeoJSON geometry, degrees."""
    aoi_km2: float
    observed_share: float
    failed_chunks: int
    threshold: float
    """What the outlines were drawn at."""
    threshold_rule: str
    model_name: str
    software_version: str
    attribution: tuple[str, ...]
    scene_dates: dict[str, tuple[AwareDatetime, AwareDatetime]]
    """First and last acquisition a phase."""
    layers: MapLayers
    counts: dict[str, dict[str, tuple[int, ...]]]
    """For each of FILTERS and each kind of change: landslides at or above 0, 0.01, ... 1."""
    areas_m2: dict[str, dict[str, tuple[float, ...]]]
    """Their areas, likewise. The kind is empty where the polygons have no attribute `change`."""


def tally_polygons(
    polygons: gpd.GeoDataFrame,
) -> tuple[dict[str, dict[str, tuple[int, ...]]], dict[str, dict[str, tuple[float, ...]]]]:
    """MapFacts' two tables: how many landslides, and how many m2, each place of the slider leaves."""
    counts: dict[str, dict[str, tuple[int, ...]]] = {}
    areas: dict[str, dict[str, tuple[float, ...]]] = {}
    thresholds = np.arange(STEPS + 1) / STEPS
    kinds = polygons["change"].astype(str) if "change" in polygons else None
    groups = [("", polygons)] if kinds is None else list(polygons.groupby(kinds))
    for name in FILTERS:
        counts[name], areas[name] = {}, {}
        for kind, group in groups:
            order = np.argsort(group[name].to_numpy(), kind="stable")
            first = np.searchsorted(group[name].to_numpy()[order], thresholds, side="left")
            above = np.append(np.cumsum(group["area_m2"].to_numpy()[order][::-1])[::-1], 0.0)
            counts[name][str(kind)] = tuple((len(group) - first).tolist())
            areas[name][str(kind)] = tuple(np.round(above[first], 1).tolist())
    return counts, areas


def read_layers(store: ObjectStore) -> MapLayers | None:
    """The raster layers that a run's page has already; None where it has no page of this version."""
    kept = get_object(store, FACTS)
    try:
        return MapFacts.model_validate_json(kept).layers if kept else None
    except ValidationError:
        return None


def write_page(facts: MapFacts, store: ObjectStore) -> None:
    """Writes the page beside the tiles that it shows.

    Raises:
        InputRefusedError: the store refuses a file.
        UnreachableError: the store does not answer.
    """
    for name, content in page_files():
        put_object(store, name, content, media_type=media_type_of(name))
    upload(facts.model_dump_json().encode(), store, FACTS)


def page_files() -> Iterator[tuple[str, bytes]]:
    """(key in the run, content) of the files that are the same for every run, index.html last."""
    root = files("coseis") / ASSETS
    page = root / PAGE
    for folder, prefix in ((root, ASSETS), (root / "vendor", f"{ASSETS}/vendor")):
        for file in sorted(folder.iterdir(), key=_name):
            if file.is_file() and file.name != PAGE:
                yield f"{prefix}/{file.name}", file.read_bytes()
    yield PAGE, page.read_bytes()


def media_type_of(name: str) -> str:
    """The media type of a published file, by its ending."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


def _name(file: Traversable) -> str:
    return file.name
