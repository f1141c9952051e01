"""When and how obliquely polygons were seen, from the scenes that they name."""

from datetime import UTC, datetime, timedelta, timezone

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from coseis.identity import digest_pixels, digest_scenes
from coseis.provenance import provenance_attributes
from coseis.types import Scene
from making import UTM

MORNING = datetime(2018, 9, 11, 1, 15, 30, tzinfo=UTC)


def scene(name, *, days=0, minutes=0, angle=None):
    start = MORNING + timedelta(days=days)
    return Scene(
        index=0, item_id=name, collection=None, phase="post", kind="display", sources=(), start=start,
        end=start + timedelta(minutes=minutes), cloud_cover=None, resolution_m=3.0, geometry={},
        off_nadir_deg=angle,
    )  # fmt: skip


def seen(names, *scenes):
    points = gpd.points_from_xy(range(len(names)), range(len(names)))
    polygons = gpd.GeoDataFrame({"scenes": names}, geometry=points, crs=UTM)
    found = provenance_attributes(polygons, scenes)
    return found[["seen_from", "seen_to", "off_nadir_deg"]]


def test_first_last_and_the_most_oblique():
    scenes = scene("a", angle=2.0), scene("b", days=3, minutes=1, angle=-7.5), scene("c", days=9, angle=30.0)
    found = seen(["a", "b,a", "a"], *scenes)
    assert list(found.seen_from) == ["2018-09-11T01:15:30Z"] * 3
    assert list(found.seen_to) == ["2018-09-11T01:15:30Z", "2018-09-14T01:16:30Z", "2018-09-11T01:15:30Z"]
    assert list(found.off_nadir_deg) == [2.0, 7.5, 2.0]


def test_what_is_not_stated_is_missing():
    found = seen(["a", "", "a,other", "b"], scene("a"), scene("b", angle=4.0))
    assert np.isnan(found.off_nadir_deg).tolist() == [True, True, True, False]
    assert pd.isna(found.seen_from).tolist() == [False, True, True, False]


def test_times_are_written_in_utc_and_no_polygon_gives_no_row():
    tokyo = scene("a").model_copy(update={"start": MORNING.astimezone(timezone(timedelta(hours=9)))})
    assert seen(["a"], tokyo).seen_from[0] == "2018-09-11T01:15:30Z"
    assert seen([]).dtypes["off_nadir_deg"] == "float64"


@pytest.mark.parametrize("digest", [digest_pixels, lambda one: digest_scenes((one,))])
def test_the_view_angle_is_no_part_of_an_identity(digest):
    assert digest(scene("a")) == digest(scene("a", angle=5.0))
