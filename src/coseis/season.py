"""Scenes before and after an event go in; how well each matches what came after, and what does not, come out.

A change shows best between scenes of one season under one sun: leaves, snow and shadows change too.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median

import numpy as np
import shapely
import shapely.geometry
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from coseis.types import PHASES, Cover, InputKind, Scene

CLOUD_STEP_PERCENT = 10
"""Scenes after the event whose cloud cover differs by less are ordered by time: estimates are no better."""
YEAR_DAYS = 365.25
SUN_DAYS_PER_DEG = 1.0
"""Twenty degrees between two suns move shadows as much as three weeks change a forest."""
SUN_UNKNOWN_DEG = 20.0
"""Taken where an item does not say: worse than most that do, better than another hour of the day."""
AGE_DAYS_PER_DAY = 0.1
"""A year more before the event costs as much as five weeks out of season: fields and clear-cuts change."""
CLOUD_DAYS_PER_PERCENT = 2.0
CLOUD_UNKNOWN_PERCENT = 100.0
UNCOVERED_DAYS = 30.0
"""Cost of a scene that hardly touches the area, against one that covers it: seams between dates are few."""

WHITE_LEAST: Mapping[InputKind, float] = {"reflectance": 0.12, "display": 120.0}
"""Least value of the darkest visible band under snow that lies in patches on a slope, or under cloud."""
WHITE_SATURATION = 0.15
"""Greatest (brightest - darkest) / brightest band of snow and cloud; bare soil and rock have 0.3 and more."""
GREENNESS_DROP = {"ndvi": 0.25, "grvi": 0.1}
"""Least drop of a scene's median greenness that is another season. Between synthetic scenes of one season it
differs by 0.01 (GRVI), under heavy haze by 0.03; a broadleaf forest without leaves has 0.26 less."""


def order_scenes(scenes: Sequence[Scene], event_time: datetime, aoi: BaseGeometry) -> list[Scene]:
    """Best first within each phase, pre before post; of equals the lesser id.

    After the event, the soonest clear one is best: by cloud cover in steps of CLOUD_STEP_PERCENT (unknown
    last), then by time. Before it, the one that most resembles what it is compared with, see `pre_cost_days`.
    """
    posts = [scene for scene in scenes if scene.phase == "post"]
    posts.sort(key=lambda scene: (_cloud_step(scene), scene.start - event_time, scene.item_id))

    def cost(scene: Scene) -> tuple[float, str]:
        return pre_cost_days(scene, _compared(scene, posts), event_time, aoi), scene.item_id

    return [*sorted((scene for scene in scenes if scene.phase == PHASES[0]), key=cost), *posts]


def pre_cost_days(scene: Scene, post: Scene | None, event_time: datetime, aoi: BaseGeometry) -> float:
    """What speaks against a scene before the event, in days out of season.

    The sum of: days between both days of the year, the shorter way round; SUN_DAYS_PER_DEG a degree between
    both directions to the sun; AGE_DAYS_PER_DAY a day before the event; CLOUD_DAYS_PER_PERCENT a percent of
    cloud; UNCOVERED_DAYS for the share of the area that its footprint leaves out.

    Args:
        scene: Ends by the event.
        post: What it is compared with; None: the season of the event.
        event_time: With a zone.
        aoi: Area of interest, longitude and latitude.
    """
    day = _middle(post) if post else event_time
    away = abs((_middle(scene) - day).total_seconds() / 86400) % YEAR_DAYS
    season = min(away, YEAR_DAYS - away)
    apart = _sun_angle_deg(scene, post) if post else None
    age = (event_time - scene.end).total_seconds() / 86400
    cloud = CLOUD_UNKNOWN_PERCENT if scene.cloud_cover is None else scene.cloud_cover
    covered = shapely.geometry.shape(scene.geometry).intersection(aoi).area / aoi.area
    return (
        season
        + SUN_DAYS_PER_DEG * (SUN_UNKNOWN_DEG if apart is None else apart)
        + AGE_DAYS_PER_DAY * age
        + CLOUD_DAYS_PER_PERCENT * cloud
        + UNCOVERED_DAYS * (1 - covered)
    )


def measure_cover(bands: Mapping[str, NDArray[np.floating]], kind: InputKind) -> Cover | None:
    """What a scene's overview shows of leaves and snow.

    Args:
        bands: By common name, (y, x) each, physical units of the kind; NaN where missing or not clear.
        kind: Its units.

    Returns:
        Greenness as NDVI, or as (green - red) / (green + red) where there is no near infrared, and the share
        of white pixels. None without red and green, or where bands have different shapes or no valid pixel.
    """
    if not {"red", "green"} <= bands.keys() or len({band.shape for band in bands.values()}) > 1:
        return None
    valid = np.isfinite(np.stack(list(bands.values()))).all(axis=0)
    if not valid.any():
        return None
    visible = np.stack([bands[name][valid] for name in ("red", "green", "blue") if name in bands])
    index = "ndvi" if "nir" in bands else "grvi"
    more = bands["nir" if index == "ndvi" else "green"][valid]
    greenness = (more - visible[0]) / np.maximum(np.abs(more) + np.abs(visible[0]), 1e-6)
    brightest, darkest = visible.max(axis=0), visible.min(axis=0)
    white = (darkest >= WHITE_LEAST[kind]) & (brightest - darkest <= WHITE_SATURATION * brightest)
    return Cover(
        index=index,
        greenness=round(float(np.median(greenness)), 4),
        white_percent=round(100 * float(white.mean()), 2),
    )


def why_snowy(percent: float | None, max_snow: float) -> str | None:
    """Why an item that states its snow, percent, is no scene before the event; None if it is one."""
    if percent is None or percent <= max_snow:
        return None
    return f"{percent:g} % of it is snow, more than --max-snow {max_snow:g}"


def why_unlike(scene: Scene, posts: Sequence[Scene], max_snow: float) -> str | None:
    """Why a measured scene before the event would mislead: snow or bare trees that were not there after it.

    It is compared with the median of the scenes after the event that it overlaps, of all if there is none.
    Greenness is compared within one index, kind and level of numbers only.

    Args:
        scene: Before the event; without `cover` it passes.
        posts: After the event.
        max_snow: Most percent of white pixels beyond those after the event.
    """
    if scene.cover is None:
        return None
    near = [post for post in posts if _overlap(scene, post)] or posts
    covers = [((post.kind, post.level), post.cover) for post in near if post.cover is not None]
    white = median(cover.white_percent for _, cover in covers) if covers else 0.0
    if scene.cover.white_percent - white > max_snow:
        return (
            f"{scene.cover.white_percent:.0f} % of it is bright and colourless (snow, or cloud), "
            f"{white:.0f} % after the event; the limit is --max-snow {max_snow:g} more"
        )
    own = ((scene.kind, scene.level), scene.cover.index)
    alike = [cover.greenness for numbers, cover in covers if (numbers, cover.index) == own]
    if alike and median(alike) - scene.cover.greenness > GREENNESS_DROP[scene.cover.index]:
        return (
            f"its {scene.cover.index.upper()} is {scene.cover.greenness:.2f}, {median(alike):.2f} after the "
            "event: trees without leaves, or dry ground"
        )
    return None


def _cloud_step(scene: Scene) -> float:
    return math.inf if scene.cloud_cover is None else scene.cloud_cover // CLOUD_STEP_PERCENT


def _compared(scene: Scene, posts: Sequence[Scene]) -> Scene | None:
    """The best scene after the event over the same ground, else the best of all."""
    return next((post for post in posts if _overlap(scene, post)), posts[0] if posts else None)


def _overlap(scene: Scene, other: Scene) -> bool:
    footprints = (shapely.geometry.shape(each.geometry) for each in (scene, other))
    return bool(shapely.intersects(*footprints))


def _middle(scene: Scene) -> datetime:
    return scene.start + (scene.end - scene.start) / 2


def _sun_angle_deg(scene: Scene, other: Scene) -> float | None:
    """Angle between both directions to the sun; None where an item does not say its own."""
    directions = []
    for each in (scene, other):
        if each.sun_azimuth_deg is None or each.sun_elevation_deg is None:
            return None
        azimuth, elevation = math.radians(each.sun_azimuth_deg), math.radians(each.sun_elevation_deg)
        level = math.cos(elevation)
        directions.append((level * math.sin(azimuth), level * math.cos(azimuth), math.sin(elevation)))
    cosine = sum(a * b for a, b in zip(*directions, strict=True))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
