"""Which scene before the event is best, in days; and which would mislead: snow, and trees without leaves."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping

from coseis.errors import InputRefusedError
from coseis.event import Event, Found, to_geojson
from coseis.reader import inspect_scene
from coseis.search import drop_unlike
from coseis.season import (
    AGE_DAYS_PER_DAY,
    CLOUD_DAYS_PER_PERCENT,
    SUN_DAYS_PER_DEG,
    SUN_UNKNOWN_DEG,
    UNCOVERED_DAYS,
    YEAR_DAYS,
    measure_cover,
    order_scenes,
    pre_cost_days,
    why_snowy,
    why_unlike,
)
from coseis.types import Cover, Scene
from making import area_of, found_of, grid, write_scene

AOI = box(142, 42, 143, 43)
EVENT = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
LEAFY = (0.030, 0.045, 0.025, 0.38)
"""Broadleaf forest in September: red, green, blue, nir."""
BARE_TREES = (0.070, 0.060, 0.040, 0.20)
SNOW = (0.80, 0.80, 0.80, 0.70)
SCAR = (0.145, 0.095, 0.055, 0.25)
GRAVEL = (0.16, 0.14, 0.12, 0.19)


def scene(item_id="s", *, days=-10.0, cloud=0.0, sun=(140.0, 45.0), area=AOI, cover=None, kind="reflectance"):
    """A scene some days before (negative) or after the event."""
    moment = EVENT + timedelta(days=days)
    return Scene(
        index=0, item_id=item_id, collection=None, phase="pre" if days < 0 else "post", kind=kind, sources=(),
        start=moment, end=moment, cloud_cover=cloud, resolution_m=3, geometry=to_geojson(area), cover=cover,
        sun_azimuth_deg=sun and sun[0], sun_elevation_deg=sun and sun[1],
    )  # fmt: skip


def cost(before: Scene, after: Scene | None = None) -> float:
    return pre_cost_days(before, scene("after", days=6) if after is None else after, EVENT, AOI)


def test_the_cost_is_the_sum_of_its_parts_in_days():
    perfect = cost(scene(days=6 - YEAR_DAYS))
    assert perfect == pytest.approx(AGE_DAYS_PER_DAY * (YEAR_DAYS - 6))
    more = scene(days=6 - YEAR_DAYS - 10, cloud=7, area=box(142, 42, 142.25, 43), sun=(140, 40))
    parts = 10 + 10 * AGE_DAYS_PER_DAY + 7 * CLOUD_DAYS_PER_PERCENT + 0.75 * UNCOVERED_DAYS
    assert cost(more) - perfect == pytest.approx(parts + 5 * SUN_DAYS_PER_DEG)
    unknown = scene(days=6 - YEAR_DAYS, sun=None)
    assert cost(unknown) - perfect == pytest.approx(SUN_UNKNOWN_DEG * SUN_DAYS_PER_DEG)
    assert cost(scene(days=6 - YEAR_DAYS, cloud=None)) - perfect == pytest.approx(
        100 * CLOUD_DAYS_PER_PERCENT
    )


def test_the_year_is_round():
    """New Year's Eve is one day from New Year's Day."""
    event = datetime(2019, 1, 2, tzinfo=UTC)
    after = scene().model_copy(update={"start": event, "end": event, "phase": "post"})
    eve = datetime(2017, 12, 31, tzinfo=UTC)
    before = scene().model_copy(update={"start": eve, "end": eve})
    age = (event - eve).days * AGE_DAYS_PER_DAY
    assert pre_cost_days(before, after, event, AOI) - age == pytest.approx(2, abs=0.3)


@given(st.floats(0, 360), st.floats(0, 90), st.floats(0, 360))
def test_only_the_angle_between_both_suns_counts(azimuth, elevation, turn):
    before, after = scene(sun=(azimuth, elevation)), scene(days=6, sun=((azimuth + turn) % 360, elevation))
    swapped = scene(sun=after and (after.sun_azimuth_deg, elevation)), scene(days=6, sun=(azimuth, elevation))
    assert cost(before, after) == pytest.approx(cost(*swapped), abs=1e-6)
    alike = cost(before, scene(days=6, sun=(azimuth, elevation)))
    assert alike <= cost(before, after) + 1e-6
    assert cost(before, after) <= alike + SUN_DAYS_PER_DEG * 180 + 1e-6


def test_the_same_season_a_year_before_comes_before_a_recent_winter():
    """And a month before is between both; under cloud, the same season is worse than another."""
    scenes = [
        scene("winter", days=-85, sun=(150, 25)),
        scene("last-year", days=4 - 365, sun=(138, 55)),
        scene("cloudy", days=5 - 365, sun=(138, 55), cloud=60),
        scene("month-before", days=-30, sun=(140, 47)),
        scene("after", days=5, sun=(138, 56)),
    ]
    ordered = order_scenes(scenes, EVENT, AOI)
    assert [s.item_id for s in ordered] == ["last-year", "month-before", "winter", "cloudy", "after"]


def test_each_scene_is_compared_with_what_it_overlaps():
    west, east = box(142, 42, 142.4, 43), box(142.6, 42, 143, 43)
    scenes = [
        scene("high", sun=(140, 60), area=east),
        scene("low", sun=(140, 20), area=east),
        scene("best", days=1, sun=(140, 60), area=west),
        scene("other", days=2, sun=(140, 20), area=east),
    ]
    assert [s.item_id for s in order_scenes(scenes, EVENT, AOI)] == ["low", "high", "best", "other"]
    assert [s.item_id for s in order_scenes(scenes[:3], EVENT, AOI)] == ["high", "low", "best"]


_drawn = st.builds(
    scene,
    st.sampled_from("abcdefgh"),
    days=st.floats(-700, 170).filter(bool),
    cloud=st.none() | st.floats(0, 100),
    sun=st.none() | st.tuples(st.floats(0, 360), st.floats(5, 80)),
    area=st.sampled_from([AOI, box(142, 42, 142.3, 42.3), box(142.5, 42.5, 143.5, 43.5)]),
)


@given(st.lists(_drawn, max_size=7, unique_by=lambda s: s.item_id), st.randoms())
def test_the_order_is_that_of_the_cost_whatever_the_order_they_came_in(scenes, random):
    ordered = order_scenes(scenes, EVENT, AOI)
    shuffled = random.sample(scenes, len(scenes))
    assert order_scenes(shuffled, EVENT, AOI) == ordered
    posts = [s for s in ordered if s.phase == "post"]
    assert ordered[len(ordered) - len(posts) :] == posts
    for better, worse in pairwise(s for s in ordered if s.phase == "pre"):
        costs = []
        for each in (better, worse):
            near = [p for p in posts if box(*_bounds(p)).intersects(box(*_bounds(each)))]
            costs.append((pre_cost_days(each, [*near, *posts, None][0], EVENT, AOI), each.item_id))
        assert costs[0] < costs[1]


def _bounds(each: Scene) -> tuple[float, ...]:
    xs, ys = zip(*each.geometry["coordinates"][0], strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def ground(*shares: tuple[tuple[float, ...], float], seed: int = 0) -> np.ndarray:
    """Reflectance (band, y, x) of covers by their share, with 15 % of texture that is common to the bands."""
    rng = np.random.default_rng(seed)
    covers, parts = zip(*shares, strict=True)
    which = rng.choice(len(covers), (60, 80), p=parts)
    return np.array(covers).T[:, which] * rng.lognormal(0, 0.15, (60, 80))


def cover_of(*shares, kind="reflectance", nir=True) -> Cover:
    bands = ground(*shares)
    names = ("red", "green", "blue", "nir") if nir else ("red", "green", "blue")
    return measure_cover(dict(zip(names, bands, strict=False)), kind)


def test_greenness_and_white_are_what_numpy_says():
    bands = ground((LEAFY, 0.7), (SNOW, 0.2), (SCAR, 0.1))
    red, green, _, nir = bands
    cover = measure_cover(dict(zip(("red", "green", "blue", "nir"), bands, strict=True)), "reflectance")
    assert cover.index == "ndvi"
    assert cover.greenness == pytest.approx(np.median((nir - red) / (nir + red)), abs=1e-4)
    assert cover.white_percent == pytest.approx(20, abs=2)
    shown = {"red": red.copy(), "green": green}
    shown["red"][:30] = np.nan
    cover = measure_cover(shown, "reflectance")
    assert cover.index == "grvi"
    assert cover.greenness == pytest.approx(np.median(((green - red) / (green + red))[30:]), abs=1e-4)


def test_what_cannot_be_measured_has_no_cover():
    band = np.ones((4, 5))
    assert measure_cover({"red": band, "blue": band}, "display") is None
    assert measure_cover({"red": band, "green": np.ones((2, 2))}, "display") is None
    assert measure_cover({"red": band * np.nan, "green": band}, "display") is None


SEPTEMBER = ((LEAFY, 0.8), (SCAR, 0.1), (GRAVEL, 0.1))
AUGUST = ((LEAFY, 0.95), (GRAVEL, 0.05))
MARCH = ((BARE_TREES, 0.95), (GRAVEL, 0.05))
JANUARY = ((BARE_TREES, 0.7), (SNOW, 0.3))


@pytest.mark.parametrize("nir", [True, False])
def test_winter_is_refused_and_the_same_season_is_not(nir):
    after = scene("after", days=5, cover=cover_of(*SEPTEMBER, nir=nir))
    for shares, reason in (
        (AUGUST, None),
        (SEPTEMBER, None),
        (MARCH, "trees without leaves"),
        (JANUARY, "30 % of it is bright and colourless .snow, or cloud., 0 % after the event"),
    ):
        before = scene(cover=cover_of(*shares, nir=nir))
        why = why_unlike(before, [after], 10)
        assert (why is None) == (reason is None), why
        if reason:
            with pytest.raises(AssertionError, match=reason):
                raise AssertionError(why)
    # After a winter earthquake a winter scene is right.
    winter = scene("winter", days=5, cover=cover_of(*JANUARY, nir=nir))
    assert why_unlike(scene(cover=cover_of(*JANUARY, nir=nir)), [winter], 10) is None
    assert why_unlike(scene(cover=cover_of(*JANUARY, nir=nir)), [after], 50) != why_unlike(
        scene(cover=cover_of(*JANUARY, nir=nir)), [after], 10
    )


def test_haze_is_no_other_season():
    haze = np.array([0.045, 0.06, 0.08, 0.02])[:, None, None]
    hazy = measure_cover(
        dict(zip(("red", "green", "blue"), ground(*AUGUST)[:3] + haze[:3], strict=True)), "reflectance"
    )
    after = scene("after", days=5, cover=cover_of(*SEPTEMBER, nir=False))
    assert why_unlike(scene(cover=hazy), [after], 10) is None


def test_only_like_is_compared():
    march, september = cover_of(*MARCH), cover_of(*SEPTEMBER)
    shown = scene("shown", days=5, cover=cover_of(*SEPTEMBER), kind="display")
    toa = scene("toa", days=5, cover=september).model_copy(update={"level": "toa"})
    assert why_unlike(scene(cover=march), [toa], 10) is None
    assert why_unlike(scene(cover=march), [shown], 10) is None
    assert (
        why_unlike(scene(cover=march), [scene("rgb", days=5, cover=cover_of(*SEPTEMBER, nir=False))], 10)
        is None
    )
    assert why_unlike(scene(cover=None), [scene("after", days=5, cover=september)], 10) is None
    assert why_unlike(scene(cover=march), [], 10) is None
    # Elsewhere it may be winter: what it overlaps counts.
    here, there = box(142, 42, 142.4, 43), box(142.6, 42, 143, 43)
    posts = [
        scene("here", days=5, cover=march, area=here),
        scene("there", days=5, cover=september, area=there),
    ]
    assert why_unlike(scene(cover=march, area=here), posts, 10) is None
    assert "without leaves" in why_unlike(scene(cover=march, area=there), posts, 10)


def test_snow_that_an_item_states():
    assert why_snowy(None, 10) is None
    assert why_snowy(10, 10) is None
    assert why_snowy(10.5, 10) == "10.5 % of it is snow, more than --max-snow 10"


def found(*scenes: Scene) -> Found:
    return Found(
        event=Event(time=EVENT, aoi=mapping(AOI)),
        scenes=tuple(s.model_copy(update={"index": n}) for n, s in enumerate(scenes)),
        coverage={"pre": 1.0, "post": 1.0},
        searched="test scenes",
    )


def test_scenes_that_mislead_are_listed_and_the_rest_stay_in_order():
    after = scene("after", days=5, cover=cover_of(*SEPTEMBER))
    snowy = scene("snowy", cover=cover_of(*JANUARY))
    half = scene("half", cover=cover_of(*AUGUST), area=box(142, 42, 142.5, 43))
    left = drop_unlike(found(snowy, half, after), max_snow=10)
    assert [(s.index, s.item_id) for s in left.scenes] == [(0, "half"), (1, "after")]
    (refused,) = left.refused
    assert refused.item_id == "snowy"
    assert refused.reason.endswith("; to use it: --include snowy")
    assert left.coverage == {"pre": pytest.approx(0.5), "post": 1.0}
    assert "of them 1 unlike the scenes after the event" in left.searched
    assert Found.model_validate_json(left.model_dump_json()) == left
    everything = found(snowy, half, after)
    assert drop_unlike(everything, max_snow=10, include=("snowy",)) == everything


def test_with_none_left_it_is_as_if_there_had_been_none():
    both = found(scene("snowy", cover=cover_of(*JANUARY)), scene("after", days=5, cover=cover_of(*SEPTEMBER)))
    with pytest.raises(
        InputRefusedError,
        match=r"no scene before the event.* snowy: 30 % .*--include snowy.*--allow-missing-pre",
    ):
        drop_unlike(both, max_snow=10)
    left = drop_unlike(both, max_snow=10, allow_missing_pre=True)
    assert [s.item_id for s in left.scenes] == ["after"]
    assert left.coverage["pre"] == 0


@pytest.mark.parametrize(("shares", "kept"), [(AUGUST, True), (MARCH, False), (JANUARY, False)])
def test_files_are_measured_when_the_run_is_planned(tmp_path, shares, kept):
    box_ = grid(60, 80)
    stored = {}
    for phase, covers in (("pre", shares), ("post", SEPTEMBER)):
        pixels = np.clip(ground(*covers)[:3] * 1e4, 1, 65535).astype(np.uint16)
        made = write_scene(tmp_path / f"{phase}.tif", pixels, box_.affine, phase=phase)
        stored[phase] = inspect_scene(made, ("red", "green", "blue"))
    both = found_of(list(stored.values()), area_of(box_))
    if kept:
        assert drop_unlike(both, max_snow=10) == both
    else:
        with pytest.raises(InputRefusedError, match="no scene before the event"):
            drop_unlike(both, max_snow=10)


def test_the_snowy_scene_of_iburi_is_refused(real_data):
    from coseis.config import SearchConfig
    from coseis.plan import find_scenes, inspect_scenes
    from making import a_card

    search = SearchConfig(
        catalog=str(real_data / "iburi" / "catalog.json"),
        collection=("sentinel-2",),
        event_time=EVENT.isoformat(),
        aoi="141.90,42.69,142.02,42.76",
    )
    card = a_card(inputs={"reflectance": {"low": 0, "high": 0.33}})
    both = find_scenes(search, card)
    measured = both.model_copy(update={"scenes": inspect_scenes(both)})
    with pytest.raises(InputRefusedError, match="iburi_pre_s2: 13 % of it is bright and colourless"):
        drop_unlike(measured, max_snow=search.max_snow)
    pre, post = measured.scenes
    assert (pre.cover.white_percent, post.cover.white_percent) == pytest.approx((13.0, 1.2), abs=0.5)
