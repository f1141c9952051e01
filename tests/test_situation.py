"""The page for a situation room: the report's numbers, words that are true, and one sheet for all of it."""

import html
import re
from html.parser import HTMLParser

import geopandas as gpd
import pytest
import shapely

from coseis.caveats import area_text, caveats_of, percent
from coseis.config import TerrainConfig
from coseis.edits import EditsReport
from coseis.flat_ground import FlatCount
from coseis.grades import grade_product
from coseis.report import SITUATION_FIGURE_IN, FailedChunk, TerrainReport
from coseis.scene_shift import Coregistration
from coseis.situation import BIGGEST, biggest_landslides, draw_situation, policy
from coseis.types import Status
from making import UTM
from reporting import TIME, a_picture, a_plan, a_report, a_scene, some_polygons
from test_viewer import browser  # noqa: F401  (fixture)

FIGURE_PX = tuple(round(150 * side) for side in SITUATION_FIGURE_IN)
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def draw(report, plan, polygons, picture=None, figure=None):
    made = draw_situation(
        report, plan, polygons, picture=picture or a_picture(), figure=figure or a_picture(*FIGURE_PX, "PNG")
    )
    return made.decode()


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def words(page):
    """What is read on the page, one line."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_numbers_are_the_report_s():
    plan, polygons = a_plan(), some_polygons()
    said = words(draw(a_report(plan, polygons), plan, polygons))
    assert "5 September 2018 18:08 UTC" in said
    assert "landslides 14 " in said
    assert f"area of landslides {area_text(polygons.area_m2.sum())} " in said
    assert "of the area was seen after the event 87.5 % " in said
    assert "clear 87.5 % cloud 12.5 %" in said
    assert "delineation Product 1, issued 12 Sep 2018, 03:30 UTC" in said
    for kind, rows in polygons.groupby("change"):
        assert f"{kind} {len(rows)} {area_text(rows.area_m2.sum())}" in said
    assert "scenes after 1, 11 Sep 2018 scenes before 1, 16 Aug 2018" in said
    assert "model tiny, a1a1a1a1a1a1 threshold 0.39, the model's own least area 100 m²" in said


def test_the_biggest_ten_stand_where_they_are():
    plan, polygons = a_plan(), some_polygons()
    page = draw(a_report(plan, polygons), plan, polygons)
    rows = re.findall(
        r'<th scope="row">(\d+)</th><td>([-\d.]+), ([-\d.]+)</td><td>([^<]+)</td><td>([\d.]+)</td>', page
    )
    biggest = polygons.sort_values("area_m2", ascending=False).head(BIGGEST)
    assert [int(row[0]) for row in rows] == list(range(1, BIGGEST + 1))
    for (_, latitude, longitude, area, probability), one in zip(rows, biggest.itertuples(), strict=True):
        point = gpd.GeoSeries([shapely.Point(float(longitude), float(latitude))], crs=4326).to_crs(UTM)[0]
        assert one.geometry.distance(point) < 8  # four decimals of a degree
        assert area == area_text(one.area_m2)
        assert probability == f"{one.probability_mean:.2f}"


def test_equal_sizes_have_an_order():
    polygons = some_polygons()
    shuffled = polygons.sample(frac=1, random_state=3)
    assert list(biggest_landslides(polygons).id) == list(biggest_landslides(shuffled).id)


def test_a_run_without_landslides_has_a_page():
    plan, polygons = a_plan(), some_polygons().iloc[:0]
    said = words(draw(a_report(plan, polygons), plan, polygons))
    assert "landslides 0 area of landslides 0 m² " in said
    assert "none found" in said


def hostile():
    """A plan and a report whose every text from elsewhere is hostile."""
    scenes = [a_scene(phase, name=HOSTILE, attribution=f"{HOSTILE}{phase}") for phase in ("pre", "post")]
    plan, polygons = a_plan(scenes, name=HOSTILE), some_polygons()
    lost = FailedChunk(chunk="0_0", crs=UTM, reason=HOSTILE, aoi_px=9)
    return plan, polygons, a_report(plan, polygons, failed=(lost,), scenes_without_mask=(HOSTILE,) * 2)


def test_what_catalogs_say_is_text():
    plan, polygons, report = hostile()
    page = draw(report, plan, polygons)
    plain = draw(a_report(a_plan(), polygons), a_plan(), polygons)
    expected = {name for name, _ in _Tags(plain).found}
    found = _Tags(page).found
    assert {name for name, _ in found} <= expected | {"li"}
    assert not [attrs for _, attrs in found if any(key.startswith("on") or key == "style" for key in attrs)]
    assert "<script" not in page
    assert words(page).count("<script>alert(1)</script>") >= 3


def test_the_page_holds_all_that_it_shows():
    plan, polygons = a_plan(), some_polygons()
    page = draw(a_report(plan, polygons), plan, polygons)
    found = _Tags(page).found
    [said] = [attrs["content"] for _, attrs in found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert said == policy()
    assert "unsafe" not in said
    assert "http" not in said
    for _, attrs in found:
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:")
    assert not re.search(r"url\((?![\"']?data:)", page)


def caveats(cut=0, **changes):
    plan, polygons = a_plan(), some_polygons()
    return caveats_of(a_report(plan, polygons, **changes), cut=cut)


def test_a_complete_map_of_ground_that_was_all_seen_has_one_caveat():
    said = caveats(observed_share=1.0, status_shares={"pre": {"observed": 1.0}, "post": {"observed": 1.0}})
    assert said == ["Drawn by a model from satellite images, not checked on the ground."]


def shares(**post):
    return {"status_shares": {"pre": {"observed": 1.0}, "post": post}}


def lost(*, tried):
    return FailedChunk(chunk="0_0", crs=UTM, reason="no answer.", aoi_px=9, tried=tried)


FLAT = TerrainReport(
    source="dem", attribution=None, polygons_without_dem=0, min_slope_deg=8, flat=FlatCount(), flat_m2=25000
)
EDITED = EditsReport(
    digest="d", counts={"accept": 3, "reject": 2}, editors=("Ana", "Bo"), last="2018-09-07T00:00:00.000Z"
)
SHIFTS = Coregistration(
    mode="check", blocks=4, good_share=1, weak_share=0, unmeasured_share=0, median_dy_px=2, median_dx_px=0,
    ce90_px=2, ce90_after_px=None, flagged=("a", "b", "c", "d", "e"), scenes=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "caveat"),
    [
        ({"failed": (lost(tried=False),) * 2, **shares(observed=0.9, not_computed=0.1)},
         "Not computed yet: 10.0 % of the area, 2 chunks."),
        ({"failed": (lost(tried=True),), **shares(observed=0.9, failed=0.1)},
         "Failed: 10.0 % of the area, 1 chunk: no answer."),
        ({"observed_share": 0.75},
         "Not seen after the event: 25.0 % of the area, 45.0 ha. No outline there does not mean no "
         "landslide."),
        ({"status_shares": {"post": {"observed": 1.0}}},
         "No scene from before the event: old landslides and bare ground may be counted as new."),
        ({"scenes_without_mask": ("a",)},
         "No cloud mask: 1 scene (a), whose clouds count as seen."),
        ({"coregistration": SHIFTS},
         "Off their place: 5 scenes from before the event. Old and new may be mixed up there."),
        ({"forced_resolution": True}, "The model ran at a pixel size that it was not trained for."),
        ({"cut": 3},
         "Cut by cloud, missing ground or the border of the area: 3 landslides, larger than drawn."),
        ({"terrain": FLAT}, "Left out: 2.5 ha of ground flatter than 8°, deposits among it."),
        ({"edits": EDITED}, "Judged by Ana, Bo: 5 landslides; the others are a model's alone."),
    ],
)  # fmt: skip
def test_each_caveat_is_said_where_it_is_true_and_nowhere_else(changes, caveat):
    assert caveat in caveats(**changes)
    assert caveat not in caveats()


def test_shares_and_areas_never_round_to_all_or_nothing():
    assert [percent(share) for share in (0, 1e-6, 0.99999, 1, 0.1234)] == [
        "0 %", "0.1 %", "99.9 %", "100 %", "12.3 %",
    ]  # fmt: skip
    assert [area_text(m2) for m2 in (0, 4350, 12345, 999_000, 1.67e6, 1.234e8)] == [
        "0 m²", "4,350 m²", "1.2 ha", "99.9 ha", "1.67 km²", "123 km²",
    ]  # fmt: skip


def worst_case():
    """Everything that the page can say at once, at its longest."""
    long = "20180911_010203_1034_3B_AnalyticMS_SR_clip_" * 9
    scenes = [
        a_scene(phase, name=f"{long}{phase}", attribution=f"{phase} {long}") for phase in ("pre", "post")
    ]
    plan, polygons = a_plan(scenes, name=long[:200]), some_polygons(16)
    polygons["change"] = (["new", "reactivated", "unknown", "pre-existing"] * 4)[: len(polygons)]
    polygons["touches_unobserved"] = True
    polygons["area_m2"] *= 1e6
    statuses = [
        status.name.lower() for status in Status if status not in (Status.OBSERVED, Status.OUTSIDE_AOI)
    ]
    first = grade_product((), complete=True, updates=12, time=TIME)
    report = a_report(
        plan, polygons, **shares(observed=0.5, **dict.fromkeys(statuses, 0.05)), observed_share=0.5,
        failed=tuple(
            FailedChunk(chunk="0_0", crs=UTM, reason=long, aoi_px=9, tried=tried) for tried in (True, False)
        ),
        scenes_without_mask=(long,) * 2, coregistration=SHIFTS.model_copy(update={"flagged": (long,) * 40}),
        forced_resolution=True, terrain=FLAT,
        products=(first, grade_product((first,), complete=False, updates=13, time=TIME)),
    )  # fmt: skip
    terrain = report.config.model_copy(update={"terrain": TerrainConfig(dem="dem.tif", min_slope=8)})
    return plan, polygons, report.model_copy(update={"config": terrain})


def pages_of(pdf):
    """Sizes of the sheets of a PDF of Chromium's, points."""
    return [
        tuple(round(float(number)) for number in box.split()[2:])
        for box in re.findall(rb"/MediaBox \[([-\d. ]+)\]", pdf)
    ]


def print_page(browser, path):  # noqa: F811
    """The PDF of a page as it is printed, and what it asked the network for."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked, troubles = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda text: troubles.append(text.text))
    page.on("dialog", lambda dialog: (troubles.append("a dialog"), dialog.dismiss()))
    page.goto(path.as_uri())
    page.evaluate("document.fonts.ready")
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    drawn = page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    styled = page.evaluate("getComputedStyle(document.querySelector('#count')).fontSize")
    font = page.evaluate("document.fonts.check('50px Inter') && document.fonts.size")
    context.close()
    assert [address for address in asked if not address.startswith("data:")] == [path.as_uri()]
    assert troubles == []
    assert (drawn, styled, font) == (True, "50px", 1)
    return pdf


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("shape", [(1664, 1664), (1664, 500), (700, 1920)])
@pytest.mark.parametrize("case", [worst_case, hostile])
def test_all_that_can_be_said_fits_on_one_sheet(browser, tmp_path, case, shape):  # noqa: F811
    plan, polygons, report = case()
    path = tmp_path / "report.html"
    path.write_text(draw(report, plan, polygons, picture=a_picture(*shape)))
    assert pages_of(print_page(browser, path)) == [(595, 842)]


@pytest.mark.slow
@pytest.mark.integration
def test_a_phone_reads_it_without_moving_it_sideways(browser, tmp_path):  # noqa: F811
    plan, polygons, report = worst_case()
    path = tmp_path / "report.html"
    path.write_text(draw(report, plan, polygons))
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()
