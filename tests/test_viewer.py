"""The map page in a real Chromium: what it draws, how it answers, and whom it asks."""

import os
import shutil
from io import BytesIO
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from obstore.store import LocalStore
from PIL import Image
from playwright.sync_api import sync_playwright
from pyproj import Transformer

from coseis.archive import TileSpool, write_archive
from coseis.objects import put_object
from coseis.page import MapLayers, tally_polygons, write_page
from coseis.publish import FIGURE, write_tiles
from coseis.render import CODECS, reduce_tiles
from coseis.situation import SITUATION, draw_situation
from coseis.statistics.areas import take_areas
from coseis.statistics.figure import draw_sizes
from coseis.tiles import (
    coarser_tiles,
    cut_block,
    native_zoom,
    tiles_over,
    warp_codes,
    warp_image,
    window_under,
    zoom_steps,
)
from coseis.types import CONTEXT_INCOMPLETE, Status
from making import area_of, grid
from reporting import a_picture, a_plan, a_report, some_polygons
from test_page import HOSTILE, some_facts
from test_server import running

pytestmark = [pytest.mark.slow, pytest.mark.integration]

GRID = grid(400, 500)
THRESHOLD = 0.4
PROBABILITIES = np.arange(40, 100, 5) / 100
"""Of the polygons, which lie in rows of four."""
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 780}
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
IDLE = """Promise.all(Object.values(coseisMaps).filter(Boolean).map((map) => new Promise((resolve) =>
    map.loaded() && map.areTilesLoaded() && !map.isMoving() ? resolve() : map.once('idle', resolve))))"""
DRAWN = "coseisMaps.after.queryRenderedFeatures({layers: ['fill']})"


def place_of(number):
    """Column and row of a polygon's corner on the grid; it is 60 px wide and 50 high."""
    return 40 + 110 * (number % 4), 50 + 110 * (number // 4)


def some_landslides(change=False):
    boxes, x0, y0 = [], GRID.affine.c, GRID.affine.f
    for number in range(len(PROBABILITIES)):
        col, row = place_of(number)
        boxes.append(shapely.box(x0 + 3 * col, y0 - 3 * (row + 50), x0 + 3 * (col + 60), y0 - 3 * row))
    count = len(boxes)
    columns = {
        "id": [f"{number:02d}" for number in range(count)], "area_m2": [box.area for box in boxes],
        "perimeter_m": [box.length for box in boxes], "probability_mean": PROBABILITIES,
        "probability_max": np.minimum(PROBABILITIES + 0.1, 1), "context_incomplete_share": np.zeros(count),
        "scenes": [HOSTILE] * count, "model_digest": ["a" * 64] * count, "slope_deg": np.full(count, 21.5),
    }  # fmt: skip
    if change:
        columns["change"] = [["new", "reactivated", "pre-existing", "unknown"][n % 4] for n in range(count)]
    return gpd.GeoDataFrame(columns, geometry=boxes, crs=str(GRID.crs))


def write_layer(store, name, kind, pixels, warp):
    codec, zoom = CODECS[kind], native_zoom(GRID)
    (base, levels), *lower = zoom_steps(zoom)
    with TileSpool() as spool:
        for block in tiles_over(area_of(GRID), base):
            if (window := window_under(block, GRID)) is None:
                continue
            rows, cols = window.toslices()
            warped = warp(pixels[:, rows, cols], GRID, window, block, levels)
            tiles = cut_block(warped, block, levels, codec.empty)
            for level in range(levels + 1):
                if level:
                    tiles = coarser_tiles(tiles, codec.halve, codec.empty)
                for tile, content in tiles.items():
                    spool.put(tile, codec.encode(content))
        for zoom_of_blocks, levels in lower:
            children = [(tile, spool.get(tile)) for tile in spool.of_zoom(zoom_of_blocks + levels)]
            for tile, content in reduce_tiles(kind, levels, children).tiles:
                spool.put(tile, content)
        write_archive(spool, store, f"{name}.pmtiles", bounds=(141, 42, 143, 43), metadata={})


def write_run(folder, *, change=False, pixels=True):
    """A run's published files: blue before, red after, a probability that rises eastwards, a cloud."""
    store = LocalStore(folder, mkdir=True)
    for phase, colour in (("pre", (20, 40, 200)), ("post", (200, 40, 20))) if pixels else ():
        image = np.full((4, *GRID.shape), 255, np.uint8)
        image[:3] = np.array(colour)[:, None, None]
        write_layer(store, phase, "image", image, warp_image)
    codes = np.full((2, *GRID.shape), Status.OBSERVED, np.uint8)
    codes[0] = np.linspace(0, 200, GRID.shape.x).astype(np.uint8)
    codes[1, :100, :100] = Status.CLOUD
    codes[1, 300:, :] |= CONTEXT_INCOMPLETE
    write_layer(store, "codes", "codes", codes, warp_codes)
    landslides = some_landslides(change)
    write_tiles(landslides, store, "landslides.pmtiles")
    counts, areas_m2 = tally_polygons(landslides)
    area = area_of(GRID)
    layers = MapLayers(
        pre=pixels, post=pixels, codes=True, min_zoom=6, max_zoom=native_zoom(GRID), statuses=(1, 2, 129),
        withheld="" if pixels else f"Not shown: {HOSTILE}.", unread_blocks=0,
    )  # fmt: skip
    months = {"pre": "08", "post": "10"}
    days = {
        name: (f"2018-{month}-01T01:00:00Z", f"2018-{month}-03T01:00:00Z") for name, month in months.items()
    }
    facts = some_facts(
        bounds=shapely.geometry.shape(area).bounds, aoi=area, threshold=THRESHOLD, layers=layers,
        counts=counts, areas_m2=areas_m2, scene_dates=days,
    )  # fmt: skip
    write_page(facts, store)
    figure = draw_sizes({"this map": (take_areas(landslides.area_m2.to_numpy()), None)}, title="Areas")
    put_object(store, FIGURE, figure, media_type="image/png")
    plan, polygons = a_plan(), some_polygons()
    page = draw_situation(
        a_report(plan, polygons), plan, polygons, picture=a_picture(90, 60), figure=a_picture(99, 48, "PNG")
    )
    put_object(store, SITUATION, page, media_type="text/html")
    return folder


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("the map page is tested in Chromium: apt-get install chromium")
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=SOFTWARE_GL)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running(str(write_run(tmp_path_factory.mktemp("page") / "run"))) as root:
        yield root


@pytest.fixture
def opened(browser):
    """Opens a page; at the end nothing may have gone wrong in it, and only its own origin been asked."""
    contexts, asked, troubles = [], [], []

    def start(root, viewport=DESKTOP, **settings):
        context = browser.new_context(viewport=viewport, **settings)
        contexts.append((context, root))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda text: troubles.append(text.text) if text.type == "error" else None)
        page.on("dialog", lambda dialog: (troubles.append("a dialog"), dialog.dismiss()))
        page.goto(root)
        page.wait_for_selector("html[data-ready]", state="attached")
        page.evaluate(IDLE)
        return page

    yield start
    for context, root in contexts:
        context.close()
        # blob: and data: stay within the page.
        foreign = [url for url in asked if not url.startswith((root, "blob:", "data:"))]
        assert foreign == []
    assert troubles == []


def shown_count(page):
    return int(page.inner_text("#count").replace(",", ""))


def colour_at(page, x, y):
    """Colour of the screen at a place of the map, fractions of it."""
    picture = Image.open(BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    return picture.getpixel((round(x * picture.width), round(y * picture.height)))


def click_landslide(page, number):
    col, row = place_of(number)
    east, north = GRID.affine @ (col + 30, row + 25)
    place = list(Transformer.from_crs(str(GRID.crs), "EPSG:4326", always_xy=True).transform(east, north))
    point = page.evaluate("(place) => coseisMaps.after.project(place)", place)
    page.locator("#after canvas").click(position={"x": point["x"], "y": point["y"]}, force=True)


def drawn(page, name="id"):
    """Values of an attribute that the polygons on the screen have."""
    return set(page.evaluate(f"{DRAWN}.map((feature) => feature.properties.{name})"))


def slide(page, selector, value):
    page.eval_on_selector(
        selector,
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )
    page.evaluate(IDLE)


def test_polygons_are_drawn_and_the_slider_filters_them(opened, address):
    page = opened(address)
    every = [f"{number:02d}" for number in range(len(PROBABILITIES))]
    assert drawn(page) == set(every)
    assert shown_count(page) == len(every)
    for attribute, values in (
        ("probability_mean", PROBABILITIES),
        ("probability_max", np.minimum(PROBABILITIES + 0.1, 1)),
    ):
        page.check(f"input[value={attribute}]", force=True)
        for threshold in (0.55, 0.8):
            slide(page, "#threshold", round(threshold * 100))
            expected = [name for name, value in zip(every, values, strict=True) if value >= threshold]
            assert drawn(page) == set(expected)
            assert shown_count(page) == len(expected)
            assert 0 < len(expected) < len(every)


def test_the_slider_moves_the_edge_of_the_probability(opened, address):
    page = opened(address)
    page.uncheck("#show-outlines", force=True)
    page.uncheck("#show-swipe", force=True)
    plain = colour_at(page, 0.6, 0.5)
    page.check("#show-probability", force=True)
    slide(page, "#opacity", 100)
    # The probability rises from 0 at the left end of the image to 1 at the right one.
    assert colour_at(page, 0.6, 0.5) != plain
    slide(page, "#threshold", 95)
    assert colour_at(page, 0.6, 0.5) == plain
    slide(page, "#threshold", 40)
    slide(page, "#opacity", 0)
    assert colour_at(page, 0.6, 0.5) == plain


def test_swipe_shows_before_on_the_left_and_after_on_the_right(opened, address):
    page = opened(address)
    page.uncheck("#show-outlines", force=True)
    page.evaluate(IDLE)
    left, right = colour_at(page, 0.4, 0.36), colour_at(page, 0.6, 0.36)
    assert left[2] > 150 > left[0]
    assert right[0] > 150 > right[2]
    handle = page.locator("#handle").bounding_box()
    page.mouse.move(handle["x"] + 22, handle["y"] + 22)
    page.mouse.down()
    page.mouse.move(handle["x"] + 250, handle["y"] + 22, steps=4)
    page.mouse.up()
    assert colour_at(page, 0.6, 0.36) == left
    page.uncheck("#show-swipe", force=True)
    assert colour_at(page, 0.4, 0.36) == right
    assert not page.locator("#handle").is_visible()


def test_everything_is_reached_and_moved_by_the_keyboard(opened, address):
    page = opened(address)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"handle", "threshold", "show-swipe", "show-probability", "show-status"} <= reached
    page.focus("#handle")
    keys = ("ArrowRight", "ArrowLeft", "PageUp", "End", "ArrowRight", "Home", "ArrowLeft")
    for key, expected in zip(keys, (52, 50, 60, 100, 100, 0, 0), strict=True):
        page.keyboard.press(key)
        assert page.get_attribute("#handle", "aria-valuenow") == str(expected)
    page.focus("#threshold")
    page.keyboard.press("End")
    page.evaluate(IDLE)
    assert shown_count(page) == 0
    page.keyboard.press("Home")
    # Enter selects what lies in the middle of the map; the card takes the focus, Escape gives it back.
    col, row = place_of(5)
    place = Transformer.from_crs(str(GRID.crs), "EPSG:4326", always_xy=True).transform(
        *(GRID.affine @ (col + 30, row + 25))
    )
    page.evaluate("(center) => coseisMaps.after.jumpTo({center})", list(place))
    page.evaluate(IDLE)
    page.focus("#after canvas")
    page.keyboard.press("Enter")
    assert "05" in page.inner_text("#attributes").split()
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()
    assert page.evaluate("document.activeElement.className").startswith("maplibregl-canvas")


def test_a_click_shows_every_attribute_and_data_stays_text(opened, address):
    page = opened(address)
    click_landslide(page, 6)
    rows = dict(
        zip(
            page.locator("#attributes dt").all_inner_texts(),
            page.locator("#attributes dd").all_inner_texts(),
            strict=True,
        )
    )
    assert rows["probability, mean"] == "0.700"
    assert rows["area"] == "2.7 ha"
    assert rows["slope"] == "21.5°"
    assert rows["scenes"] == HOSTILE
    assert len(rows) == len(some_landslides().columns) - 1
    assert HOSTILE in page.inner_text("#credits")
    assert page.locator("img:not(#sizes-figure)").count() == 0
    assert page.locator("script").count() == 2
    page.click("#close")
    assert not page.locator("#details").is_visible()


def test_status_has_colours_and_a_legend_of_what_occurs(opened, address):
    page = opened(address)
    page.uncheck("#show-swipe", force=True)
    page.uncheck("#show-outlines", force=True)
    page.check("#show-status", force=True)
    page.evaluate(IDLE)
    legend = page.locator(".legend li").all_inner_texts()
    assert legend == ["observed", "observed, but the model lacked context", "cloud"]
    corner = page.evaluate("(place) => coseisMaps.after.project(place)", place_in_degrees(50, 20))
    box = page.locator("#stage").bounding_box()
    red, _, blue = colour_at(page, corner["x"] / box["width"], corner["y"] / box["height"])
    assert min(red, blue) > 180  # a cloud is white over the red image


def place_in_degrees(col, row):
    return list(
        Transformer.from_crs(str(GRID.crs), "EPSG:4326", always_xy=True).transform(
            *(GRID.affine @ (col, row))
        )
    )


def test_kinds_of_change_are_coloured_and_filtered(opened, tmp_path):
    with running(str(write_run(tmp_path / "run", change=True))) as root:
        page = opened(root)
        # What was there before is shown when it is asked for.
        assert drawn(page, "change") == {"new", "reactivated", "unknown"}
        assert shown_count(page) == len(PROBABILITIES) * 3 // 4
        page.check(".legend input[value=pre-existing]", force=True)
        page.evaluate(IDLE)
        assert drawn(page, "change") == {"new", "reactivated", "pre-existing", "unknown"}
        assert shown_count(page) == len(PROBABILITIES)


def layout(page):
    """Where everything lies that may not move when a panel opens over the map."""
    boxes = ("#stage", "#panel", "#layers", "#show-sizes", "#notes", "#files")
    return [page.locator(name).bounding_box() for name in boxes]


def test_sizes_open_over_the_map_and_nothing_moves(opened, address):
    page = opened(address)
    panel, button = page.locator("#sizes"), page.locator("#show-sizes")
    assert not panel.is_visible()
    assert button.get_attribute("aria-expanded") == "false"
    before = layout(page)
    page.focus("#show-sizes")
    page.keyboard.press("Enter")
    # It has its place before the figure has come.
    place = panel.bounding_box()
    page.evaluate("document.getElementById('sizes-figure').decode()")
    assert page.evaluate("document.getElementById('sizes-figure').naturalWidth") == 1650
    assert panel.bounding_box() == place
    assert layout(page) == before
    assert button.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.id") == "close-sizes"
    dialog = page.get_by_role("region", name="Sizes of the landslides")
    assert dialog.get_by_role("img", name="probability density").is_visible()
    assert "0.40" in page.inner_text("#sizes-note")
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    assert page.evaluate("document.activeElement.id") == "show-sizes"
    page.click("#show-sizes")
    page.click("#close-sizes")
    assert not panel.is_visible()
    assert button.get_attribute("aria-expanded") == "false"
    assert layout(page) == before


def test_a_run_without_a_figure_says_so(browser, tmp_path):
    folder = write_run(tmp_path / "run", pixels=False)
    (folder / FIGURE).unlink()
    with running(str(folder)) as root:
        context = browser.new_context(viewport=DESKTOP)
        page = context.new_page()
        page.goto(root)
        page.wait_for_selector("html[data-ready]", state="attached")
        page.click("#show-sizes")
        page.get_by_text("This run has no figure of sizes").wait_for()
        context.close()


def test_the_one_page_report_is_shown_as_it_was_made(opened, address):
    """Its own policy, not the map's, which allows no style within a page."""
    page = opened(address)
    page.get_by_role("link", name="one page to print").click()
    page.wait_for_selector("#count")
    assert page.evaluate("getComputedStyle(document.querySelector('#count')).fontSize") == "50px"
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_without_images_the_page_says_why_and_works(opened, tmp_path):
    with running(str(write_run(tmp_path / "run", pixels=False))) as root:
        page = opened(root)
        assert page.locator("#handle").count() == 1
        assert not page.locator("#handle").is_visible()
        assert HOSTILE in page.inner_text("#notes")
        assert len(drawn(page)) == len(PROBABILITIES)
        assert page.locator("#ticks span").count() > 2


def test_a_phone_has_the_map_first_and_the_rest_below(opened, address):
    page = opened(address, PHONE, has_touch=True, device_scale_factor=2)
    stage, panel = page.locator("#stage").bounding_box(), page.locator("#panel").bounding_box()
    assert stage["height"] > 0.5 * PHONE["height"]
    assert panel["width"] == stage["width"] == PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert not page.locator("#layers").is_visible()
    page.tap("#more")
    assert page.locator("#show-probability").is_visible()
    page.tap("#more")
    assert len(drawn(page)) == len(PROBABILITIES)


def test_a_page_whose_facts_are_missing_says_so(browser, tmp_path):
    folder = write_run(tmp_path / "run", pixels=False)
    with running(str(folder)) as root:
        Path(folder / "map.json").unlink()
        context = browser.new_context()
        page = context.new_page()
        page.goto(root)
        page.get_by_role("alert").filter(has_text="404").wait_for()
        context.close()
