"""The raster layers of a run, rendered on a real cluster in this process, against the cube that they show."""

import io
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from distributed import Client, LocalCluster
from PIL import Image
from pmtiles.reader import MmapSource, all_tiles

from coseis import task
from coseis.objects import open_store, put_object
from coseis.plan import ITEMS, Identity, Plan
from coseis.progress import progress_bars
from coseis.render import render_layers, stretches_of, why_withheld
from coseis.run_picture import draw_run
from coseis.store import create_cube, open_arrays
from coseis.tiles import EMPTY_CODES, TILE_PX, Tile, decode_codes, decode_image, halve_codes, native_zoom
from coseis.types import CODE_FILL, Percentiles, Scene, Status
from making import EVENT_TIME, a_card, area_of, found_of, grid, texture, write_scene
from test_tiles import under_centres

GRID = grid(300, 420)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as connection,
    ):
        yield connection


@pytest.fixture
def planned(tmp_path):
    """A run whose cube is filled by hand: noise, a hole, the AOI 20 px within the grid. And its codes."""
    pixels = texture((3, 300, 420), seed=1)
    pixels[:, 40:80, 50:120] = 0
    scenes = [
        write_scene(tmp_path / "before.tif", texture((3, 300, 420), seed=2), GRID.affine, phase="pre"),
        write_scene(tmp_path / "after.tif", pixels, GRID.affine),
    ]
    scenes = [scene.model_copy(update={"licence": "CC0-1.0"}) for scene in scenes]
    found = found_of(scenes, area_of(GRID, inset_px=20))
    identity = Identity(
        scenes="", aoi="", crs=str(GRID.crs), transform=tuple(GRID.affine)[:6], shape=tuple(GRID.shape),
        beyond=(), phases=("pre", "post"), masked=(), vegetation=None, block_px=512, core_px=112, batch=1,
        precision="float32", device="cpu", platform="linux", model="", card="", code="1",
    )  # fmt: skip
    plan = Plan(identity=identity, found=found, card=a_card(), forced_resolution=False, chunk_px=112)
    return plan, fill_run(plan, tmp_path / "run")


def fill_run(plan, folder):
    out = str(folder)
    store = open_store(out)
    put_object(store, ITEMS, plan.model_dump_json().encode())
    create_cube(
        out, plan.geobox, phases=plan.identity.phases, classes=("landslide",), core_px=112, chunk_px=112
    )
    rng = np.random.default_rng(6)
    probability = rng.integers(0, 201, GRID.shape).astype(np.uint8)
    status = np.full(GRID.shape, Status.OBSERVED, np.uint8)
    status[40:80, 50:120] = Status.NODATA
    outside = np.ones(GRID.shape, bool)
    outside[20:-20, 20:-20] = False
    status[outside] = Status.OUTSIDE_AOI
    probability[status != Status.OBSERVED] = CODE_FILL
    arrays = open_arrays(out, plan.geobox)
    arrays["probability"][1, 0], arrays["status"][1] = probability, status
    return folder, np.stack([probability, status])


def render(planned, client, publish_pixels="auto"):
    plan, (folder, _) = planned
    task._plans.clear()
    with progress_bars(None) as progress:
        return render_layers(plan, str(folder), client, progress, publish_pixels=publish_pixels)


def tiles_in(path, decode):
    with path.open("rb") as file:
        return {Tile(*place): decode(bytes(content)) for place, content in all_tiles(MmapSource(file))}


def test_codes_are_those_of_the_cube_and_lower_zooms_those_of_higher(planned, client):
    layers = render(planned, client)
    _, (folder, codes) = planned
    tiles = tiles_in(folder / "codes.pmtiles", decode_codes)
    zoom = native_zoom(GRID)
    assert (layers.min_zoom, layers.max_zoom, layers.codes) == (6, zoom, True)
    assert {tile.zoom for tile in tiles} == set(range(6, zoom + 1))
    assert set(layers.statuses) == {Status.OBSERVED, Status.NODATA, Status.OUTSIDE_AOI}
    found = 0
    for tile in [tile for tile in tiles if tile.zoom == zoom]:
        column, row = under_centres(tile, GRID)
        clear = np.all([np.abs(at - np.rint(at)) > 0.02 for at in (column, row)], axis=0)
        clear &= (column >= 0) & (column < GRID.shape.x) & (row >= 0) & (row < GRID.shape.y)
        expected = codes[:, row[clear].astype(int), column[clear].astype(int)]
        np.testing.assert_array_equal(tiles[tile][:, clear], expected)
        found += np.count_nonzero(expected[1] == Status.OBSERVED)
    assert found > 2 * np.count_nonzero(codes[1] == Status.OBSERVED)  # tiles are finer than the grid
    empty = np.broadcast_to(np.array(EMPTY_CODES, np.uint8)[:, None, None], (2, TILE_PX, TILE_PX))
    for tile in [tile for tile in tiles if tile.zoom < zoom]:
        children = [
            [Tile(tile.zoom + 1, 2 * tile.x + col, 2 * tile.y + row) for col in (0, 1)] for row in (0, 1)
        ]
        whole = np.concatenate(
            [np.concatenate([tiles.get(child, empty) for child in row], axis=2) for row in children], axis=1
        )
        np.testing.assert_array_equal(tiles[tile], halve_codes(whole))


def test_images_are_within_the_area_and_only_where_there_is_one(planned, client):
    layers = render(planned, client)
    folder = planned[1][0]
    assert (layers.pre, layers.post, layers.withheld, layers.unread_blocks) == (True, True, "", 0)
    zoom = native_zoom(GRID)
    shown = {phase: tiles_in(folder / f"{phase}.pmtiles", decode_image) for phase in ("pre", "post")}
    for phase, tiles in shown.items():
        for tile in [tile for tile in tiles if tile.zoom == zoom]:
            column, row = under_centres(tile, GRID)
            inside = (column > 22) & (column < GRID.shape.x - 22) & (row > 22) & (row < GRID.shape.y - 22)
            outside = (column < 18) | (column > GRID.shape.x - 18) | (row < 18) | (row > GRID.shape.y - 18)
            hole = (column > 52) & (column < 118) & (row > 42) & (row < 78)
            near = (column > 48) & (column < 122) & (row > 38) & (row < 82)
            alpha = tiles[tile][3]
            assert not alpha[outside].any()
            assert (alpha[inside & ~near] == 255).all()
            assert (alpha[hole] == (255 if phase == "pre" else 0)).all()


@pytest.mark.parametrize(
    ("licences", "asked", "shown"),
    [
        (("CC0-1.0", "CC-BY-4.0"), "auto", True),
        (("cc-by-sa-3.0-igo", "PDDL-1.0"), "auto", True),
        (("CC0-1.0", "CC-BY-NC-4.0"), "auto", False),
        (("CC-BY-ND-4.0",), "auto", False),
        (("proprietary",), "auto", False),
        ((None,), "auto", False),
        (("CC0-1.0 AND proprietary",), "auto", False),
        (("proprietary", None), "yes", True),
        (("CC0-1.0",), "no", False),
    ],
)
def test_pixels_are_published_where_every_licence_is_open_or_the_user_says_so(
    planned, licences, asked, shown
):
    [scene, _] = planned[0].found.scenes
    scenes = [scene.model_copy(update={"licence": licence}) for licence in licences]
    reason = why_withheld(scenes, asked)
    assert (reason == "") is shown
    if asked == "auto" and not shown:
        assert str(licences[-1] or "none stated") in reason


def test_images_that_may_no_longer_be_shown_are_deleted(planned, client):
    folder = planned[1][0]
    render(planned, client)
    layers = render(planned, client, publish_pixels="no")
    assert (layers.pre, layers.post) == (False, False)
    assert "publish_pixels" in layers.withheld
    assert {path.name for path in folder.glob("*.pmtiles")} == {"codes.pmtiles"}


def test_pictures_show_no_pixel_that_may_not_be_seen(planned):
    plan, _ = planned
    slide = shapely.box(*plan.geobox.boundingbox).buffer(-300)
    polygons = gpd.GeoDataFrame({"area_m2": [slide.area]}, geometry=[slide], crs=plan.geobox.crs)
    numbered = polygons.geometry.centroid
    for show_scenes in (True, False):
        for picture in draw_run(plan, polygons, 0.5, numbered=numbered, show_scenes=show_scenes):
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
            # Noise in three bands is coloured everywhere; text, hatching and plain ground are grey.
            coloured = (np.ptp(pixels, axis=2) > 40).mean()
            assert bool(coloured > 0.2) is show_scenes


def test_a_scene_that_cannot_be_read_is_counted_and_the_rest_is_shown(planned, client):
    plan, _ = planned
    Path(plan.found.of_phase("pre")[0].sources[0].href).unlink()
    layers = render(planned, client)
    assert (layers.pre, layers.post, layers.codes) == (False, True, True)
    assert layers.unread_blocks > 0


def test_one_stretch_for_a_phase_is_the_median_of_its_scenes():
    percentiles = [
        Percentiles(p02=low, p50=0.1, p98=high) for low, high in ((0.01, 0.2), (0.02, 0.3), (0.5, 0.9))
    ]
    base = a_scene()
    scenes = [
        base.model_copy(update={"kind": "reflectance", "statistics": {"red": one}}) for one in percentiles
    ]
    stretch = stretches_of(scenes, ("red",))["reflectance"]
    assert (stretch.low, stretch.span) == ((0.02,), pytest.approx(0.28))
    assert stretches_of([base], ("red",))["display"].span == 255


def a_scene():
    return Scene(
        index=0, item_id="a", collection=None, phase="post", kind="display", sources=(), start=EVENT_TIME,
        end=EVENT_TIME, cloud_cover=None, resolution_m=3, geometry={},
    )  # fmt: skip
