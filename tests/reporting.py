"""A plan, polygons and a report made by hand: what the page for a situation room is drawn from."""

from datetime import UTC, datetime, timedelta
from io import BytesIO

import geopandas as gpd
import numpy as np
import shapely
from PIL import Image

from coseis.config import MapConfig, OutputConfig, SearchConfig
from coseis.grades import grade_product
from coseis.identity import Identity
from coseis.plan import Plan
from coseis.report import ChangeTotal, RunReport
from coseis.threshold import ThresholdChoice
from coseis.throughput import Throughput
from coseis.types import Scene
from making import EVENT_TIME, UTM, a_card, area_of, found_of, grid

GRID = grid(400, 500)
TIME = datetime(2018, 9, 12, 3, 30, tzinfo=UTC)
"""Of the issue."""


def a_scene(phase, *, name="scene", attribution=None):
    moment = EVENT_TIME + timedelta(days=-20 if phase == "pre" else 6)
    return Scene(
        index=0, item_id=name, collection="PSScene", phase=phase, kind="display", sources=(), start=moment,
        end=moment, cloud_cover=None, resolution_m=3.0, geometry={}, attribution=attribution,
    )  # fmt: skip


def a_plan(scenes=None, name="tiny"):
    digests = dict.fromkeys(("scenes", "aoi", "model", "card"), "a1" * 32)
    identity = Identity(
        **digests, crs=UTM, transform=(3.0, 0.0, 583200.0, 0.0, -3.0, 4737000.0), shape=(400, 500),
        beyond=(), phases=("pre", "post"), masked=(), vegetation="greenness", block_px=512, core_px=112,
        batch=1, precision="float32", device="cpu", platform="linux", code="0.1.0",
    )  # fmt: skip
    found = found_of(scenes or [a_scene("pre"), a_scene("post")], area_of(GRID))
    return Plan(identity=identity, found=found, card=a_card(name=name), forced_resolution=False, chunk_px=112)


def some_polygons(count=14):
    """Boxes of different sizes on the grid, two of one size, none cut."""
    sides = np.append(np.arange(count - 1) + 3, 3) * 3.0
    left = GRID.affine.c + 90 * (np.arange(count) % 5) + 3
    top = GRID.affine.f - 90 * (np.arange(count) // 5) - 3
    boxes = shapely.box(left, top - sides, left + sides, top)
    columns = {
        "id": [f"{number:02d}" for number in range(count)], "area_m2": sides**2,
        "probability_mean": np.linspace(0.4, 0.99, count), "change": ["new", "reactivated"] * (count // 2),
        "touches_unobserved": np.zeros(count, bool), "touches_aoi_border": np.zeros(count, bool),
    }  # fmt: skip
    return gpd.GeoDataFrame(columns, geometry=boxes, crs=UTM)


def a_report(plan, polygons, **changes):
    identity = plan.identity
    totals = {
        kind: ChangeTotal(count=int(rows.size), area_m2=float(rows.sum()))
        for kind in ("new", "reactivated", "pre-existing", "unknown")
        for rows in [polygons.area_m2[polygons.change == kind]]
    }
    values = {
        "identity": identity,
        "identity_digest": identity.digest(),
        "config": MapConfig(
            search=SearchConfig(catalog="c.json", aoi="1,2,3,4", event_time=EVENT_TIME.isoformat()),
            output=OutputConfig(out="run"),
        ),
        "forced_resolution": False,
        "threshold": ThresholdChoice(rule="card", code=78, value=0.39, otsu=None, isodata=None),
        "landslide_count": len(polygons),
        "landslide_area_m2": float(polygons.area_m2.sum()),
        "changes": totals,
        "aoi_km2": 1.8,
        "observed_share": 0.875,
        "status_shares": {"pre": {"observed": 1.0}, "post": {"observed": 0.875, "cloud": 0.125}},
        "scenes_without_mask": (),
        "failed": (),
        "seconds": {},
        "throughput": Throughput(
            chunks=0, task_seconds={}, delivered_mpx_per_s=None, delivered_km2_per_s=None, bytes_read=0,
            bytes_fetched=0, bytes_needed=0, read_amplification=None, observed_px=0, wall_s=0, reached_s={},
        ),
        "issued": TIME,
        "products": (grade_product((), complete=True, updates=0, time=TIME),),
    }  # fmt: skip
    return RunReport(**(values | changes))


def a_picture(width=1664, height=1664, form="WEBP"):
    file = BytesIO()
    Image.new("RGB", (width, height), (40, 80, 40)).save(file, form)
    return file.getvalue()
