"""A run's report, plan and inventory in, report.html out: one page for a situation room.

The page holds all that it shows: it is mailed, printed and opened where there is no network. There is no
script in it, and whatever catalogs say is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import geopandas as gpd
import shapely
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from coseis.caveats import LEAST_SHARE, area_text, caveats_of, clip, percent, plural
from coseis.grades import Product
from coseis.plan import Plan
from coseis.run_picture import credits_of
from coseis.types import Scene

if TYPE_CHECKING:  # reports are written with this page
    from coseis.report import RunReport

SITUATION = "report.html"
FOLDER = "web/report"
"""Of the template and its style, in the package."""
BIGGEST = 10
PARTS = 6
"""Of the bar of what was seen; the smallest are one part together."""
CREDIT_LETTERS = 180
"""The page is one sheet; item.json has all of it."""
KINDS = {
    "new": "new",
    "reactivated": "reactivated",
    "unknown": "not known if new",
    "pre-existing": "there before, not counted",
}
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
REASONS = {
    "observed": "clear",
    "haze": "heavy haze",
    "nodata": "no data",
    "not_acquired": "no scene",
    "not_computed": "not computed",
}
"""Names of statuses for people, where another word says more."""


class Row(NamedTuple):
    """One of the biggest landslides, as the table has it."""

    number: int
    place: str
    """Latitude and longitude in degrees, as maps take them."""
    area: str
    probability: str
    kind: str


class Part(NamedTuple):
    """A part of the bar of what was seen, in percent of its length."""

    name: str
    label: str
    share: str
    start: float
    length: float


def biggest_landslides(polygons: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The biggest landslides, each as a point that lies in it, longitude and latitude, the biggest first."""
    rows = polygons.sort_values(["area_m2", "id"], ascending=[False, True]).head(BIGGEST)
    points = shapely.point_on_surface(rows.geometry.to_numpy())
    return rows.set_geometry(gpd.GeoSeries(points, index=rows.index, crs=rows.crs)).to_crs(4326)


def draw_situation(
    report: RunReport, plan: Plan, polygons: gpd.GeoDataFrame, *, picture: bytes, figure: bytes
) -> bytes:
    """The page, HTML in UTF-8 that needs nothing else.

    Args:
        report: Of the run; its last product is this one.
        plan: Of the run.
        polygons: Landslides of the event, as `draw.Drawing` describes them.
        picture: WebP of the map with the numbers of `biggest_landslides`.
        figure: PNG of the sizes.
    """
    event, product = plan.found.event, report.products[-1]
    at = event.time.astimezone(UTC)
    west, south, east, north = shapely.geometry.shape(event.aoi).bounds
    cut = int((polygons["touches_unobserved"] | polygons["touches_aoi_border"]).sum())
    before = [one for one in report.products if one.number == product.supersedes]
    said = {
        "policy": policy(),
        "style": Markup(_style()),
        "day": f"{at.day} {MONTHS[at.month - 1]} {at.year}",
        "clock": _clock(event.time),
        "centre": _place_text((south + north) / 2, (west + east) / 2),
        "area": area_text(report.aoi_km2 * 1e6),
        "product": product,
        "issued": _moment(product.issued),
        "supersedes": _superseded(before[0]) if before else None,
        "count": f"{report.landslide_count:,}",
        "noun": plural(report.landslide_count, "landslide").partition(" ")[2],
        "landslide_area": area_text(report.landslide_area_m2),
        "observed": percent(report.observed_share),
        "kinds": [
            (KINDS.get(kind, kind), f"{total.count:,}", area_text(total.area_m2))
            for kind in KINDS
            if (total := report.changes[kind]).count or kind == "new"
        ],
        "seen": _seen(report),
        "picture": _data_uri("image/webp", picture),
        "figure": _data_uri("image/png", figure),
        "rows": _rows(biggest_landslides(polygons)),
        "settings": _settings(report, plan),
        "caveats": caveats_of(report, cut=cut),
        "credits": clip("; ".join(credits_of(plan)), CREDIT_LETTERS),
        "version": report.identity.code,
    }
    return _template().render(said).encode()


@cache
def policy() -> str:
    """What a browser may do with the page: show what is in it, styled by its own style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; font-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@cache
def _style() -> str:
    """The style of every page, with its font."""
    font = _data_uri("font/woff2", (files("coseis") / "web/vendor/inter.woff2").read_bytes())
    face = f'@font-face {{ font-family: Inter; src: url("{font}") format("woff2"); font-weight: 100 900; }}'
    return face + (files("coseis") / FOLDER / "report.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    text = (files("coseis") / FOLDER / SITUATION).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _rows(biggest: gpd.GeoDataFrame) -> list[Row]:
    points = shapely.get_coordinates(biggest.geometry.to_numpy())
    return [
        Row(
            number,
            f"{point[1]:.4f}, {point[0]:.4f}",
            area_text(row.area_m2),
            f"{row.probability_mean:.2f}",
            KINDS.get(row.change, row.change),
        )
        for number, (point, row) in enumerate(zip(points, biggest.itertuples(), strict=True), 1)
    ]


def _seen(report: RunReport) -> list[Part]:
    """What was seen of the area after the event, and why the rest was not, the largest part first.

    Light haze and what else a user lets pass is told apart from clear ground, though it is part of the map.
    """
    shares = report.status_shares["post"]
    names = sorted(shares, key=lambda name: (name != "observed", -shares[name]))
    shown = {name: shares[name] for name in names if shares[name] >= LEAST_SHARE}
    if len(shown) > PARTS:
        kept = dict(list(shown.items())[: PARTS - 1])
        shown = kept | {"other": sum(shown.values()) - sum(kept.values())}
    parts: list[Part] = []
    start = 0.0
    for name, share in shown.items():
        label = REASONS.get(name, name.replace("_", " "))
        parts.append(Part(name, label, percent(share), round(start, 2), round(100 * share, 2)))
        start += 100 * share
    return parts


def _settings(report: RunReport, plan: Plan) -> list[tuple[str, str]]:
    """What the map was made with, name and value."""
    identity, output, threshold = report.identity, report.config.output, report.threshold
    rules = {"card": "the model's own", "fixed": "as asked", "otsu": "Otsu's rule", "isodata": "isodata"}
    found = plan.found
    scenes = [
        (f"scenes {word}", _scenes(found.of_phase(phase)))
        for phase, word in (("post", "after"), ("pre", "before"))
        if phase in identity.phases
    ]
    slope = report.config.terrain.min_slope
    return [
        *scenes,
        ("model", f"{clip(plan.card.name, 24)}, {identity.model[:12]}"),
        ("threshold", f"{threshold.value:g}, {rules[threshold.rule]}"),
        ("least area", f"{output.min_area:g} m²"),
        ("pixels", f"{abs(identity.transform[0]):g} m, {clip(identity.crs, 20)}"),
        *([("least slope", f"{slope:g}°")] if slope is not None else []),
        ("run", report.identity_digest[:12]),
    ]


def _scenes(scenes: Sequence[Scene]) -> str:
    if not scenes:
        return "none"
    first, last = min(scene.start for scene in scenes), max(scene.end for scene in scenes)
    days = list(dict.fromkeys((_day(first), _day(last))))
    return f"{len(scenes)}, {' to '.join(days)}"


def _superseded(product: Product) -> str:
    return f"product {product.number}, {product.title}, {_moment(product.issued)}"


def _place_text(latitude: float, longitude: float) -> str:
    return f"{abs(latitude):.2f}° {'NS'[latitude < 0]}, {abs(longitude):.2f}° {'EW'[longitude < 0]}"


def _day(time: datetime) -> str:
    # Not %B: month names must not follow the locale of the machine.
    utc = time.astimezone(UTC)
    return f"{utc.day} {MONTHS[utc.month - 1][:3]} {utc.year}"


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%H:%M} UTC"


def _moment(time: datetime) -> str:
    return f"{_day(time)}, {_clock(time)}"


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
