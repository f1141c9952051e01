"""Where a DEM is found, in a file or a catalog, and what is refused and how."""

import json

import numpy as np
import pytest
import shapely
from affine import Affine
from obstore.store import MemoryStore
from rasterio.windows import Window

from coseis.addresses import AddressPolicy, AddressRefusedError
from coseis.dem_search import DEM, find_dem, keep_dem, read_dem
from coseis.errors import InputRefusedError, UsageError
from making import ORIGIN, area_of, grid
from making_dem import dem_of, hills, write_dem
from serving import Page, serve

GRID = grid(1000, 1000)  # 3 km
AREA = area_of(GRID)


def item(name: str, href: str, *, area=AREA, key: str = "data", collection="cop-dem-glo-30", **asset) -> dict:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "bbox": shapely.geometry.shape(area).bounds,
        "geometry": area,
        "properties": {
            "datetime": "2021-04-22T00:00:00Z",
            "providers": [{"name": "ESA"}, {"name": "Airbus"}],
        },
        "assets": {key: {"href": href, "type": "image/tiff", **asset}, "thumbnail": {"href": "t.png"}},
    }


def catalog(folder, *items):
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


@pytest.fixture
def tile(tmp_path):
    return write_dem(tmp_path / "tile.tif", hills(100, 100))


def test_a_file_is_one_tile(tile):
    dem = find_dem(str(tile), AREA)
    assert (dem.source, dem.tiles[0].shape, dem.tiles[0].source.href) == ("tile.tif", (100, 100), str(tile))
    [lattice] = dem.lattices
    assert lattice.pixel_m == pytest.approx(30, rel=1e-3)
    np.testing.assert_array_equal(lattice.elevation(Window(0, 0, 100, 100)), hills(100, 100))


def test_items_of_a_catalog_become_one_surface(tmp_path):
    """Two tiles side by side, a third far away, in an order that is not theirs."""
    z = hills(100, 100)
    west = write_dem(tmp_path / "w.tif", z[:, :60])
    affine = Affine(30, 0, ORIGIN[0] + 1800, 0, -30, ORIGIN[1])
    east = write_dem(tmp_path / "e.tif", z[:, 60:], affine=affine)
    far = shapely.geometry.mapping(shapely.box(10, 10, 11, 11))
    address = catalog(
        tmp_path, item("b", east.name), item("far", "gone.tif", area=far), item("a", f"./{west.name}")
    )
    dem = find_dem(address, AREA, collections=("cop-dem-glo-30",))
    assert [tile.name for tile in dem.tiles] == ["a", "b"]
    assert (dem.source, dem.attribution) == ("cop-dem-glo-30", "ESA, Airbus")
    np.testing.assert_array_equal(dem.lattices[0].elevation(Window(0, 0, 100, 100)), z)
    beyond = dem.lattices[0].elevation(Window(-2, -1, 5, 4))
    assert np.isnan(beyond[0]).all()
    assert np.isnan(beyond[:, :2]).all()
    np.testing.assert_array_equal(beyond[1:, 2:], z[:3, :3])


@pytest.mark.parametrize(
    ("asset", "chosen"),
    [
        ({"key": "band", "roles": ["elevation"]}, "band"),
        ({"key": "data"}, "data"),
        ({"key": "x", "roles": ["data"]}, "x"),
    ],
)
def test_the_asset_with_elevations_is_taken(tmp_path, tile, asset, chosen):
    document = item("a", tile.name, **asset)
    document["assets"]["mask"] = {"href": "mask.tif", "type": "image/tiff", "roles": ["metadata"]}
    dem = find_dem(catalog(tmp_path, document), AREA)
    assert dem.tiles[0].source.asset == chosen


def test_stated_scale_offset_and_nodata_count(tmp_path):
    stored = np.full((100, 100), 5000, np.int16)
    stored[0, 0], stored[1, 1] = -1, 32000
    write_dem(tmp_path / "dm.tif", stored)
    bands = {"raster:bands": [{"scale": 0.1, "offset": -100, "nodata": -1, "unit": "m"}]}
    z = (
        find_dem(catalog(tmp_path, item("a", "dm.tif", **bands)), AREA)
        .lattices[0]
        .elevation(Window(0, 0, 3, 3))
    )
    assert z[2, 2] == pytest.approx(400)
    assert z[1, 1] == pytest.approx(3100)
    assert np.isnan(z[0, 0])


def test_voids_that_the_file_does_not_declare_are_missing(tmp_path):
    stored = np.full((100, 100), 500, np.int16)
    stored[3, 4] = -32768
    z = dem_of(write_dem(tmp_path / "srtm.tif", stored)).lattices[0].elevation(Window(0, 0, 10, 10))
    assert np.isnan(z[3, 4])
    assert np.isnan(z).sum() == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ({"elevation": np.zeros((3, 9, 9), np.float32)}, "has 3 bands of float32; expected one band"),
        ({"elevation": np.zeros((9, 9), np.uint8)}, "has 1 bands of uint8; expected one band of elevations"),
        ({"elevation": np.zeros((9, 9), np.int16), "crs": None}, "has no coordinate reference system"),
        ({"elevation": np.zeros((9, 9), np.int16), "affine": Affine(1, 0.1, 0, 0.1, -1, 0)}, "is rotated"),
        ({"elevation": np.zeros((9, 9), np.int16), "crs": "EPSG:6349"}, None),
        ({"elevation": np.zeros((9, 9), np.int16), "crs": "EPSG:6318+6360"}, "in US survey foot; expected"),
    ],
)
def test_what_is_no_dem_in_metres_is_refused_by_name(tmp_path, make, message):
    affine = make.pop("affine", Affine(0.001, 0, 141.9, 0, -0.001, 42.8))
    path = write_dem(tmp_path / "bad.tif", affine=affine, **{"crs": "EPSG:4326", **make})
    area = shapely.geometry.mapping(shapely.box(141.9, 42.79, 141.91, 42.8))
    if message is None:
        assert len(find_dem(str(path), area).tiles) == 1
        return
    with pytest.raises(InputRefusedError, match=message) as caught:
        find_dem(str(path), area)
    assert "bad.tif" in str(caught.value)


def test_other_mistakes_are_refused_before_work(tmp_path, tile):
    elsewhere = shapely.geometry.mapping(shapely.box(10, 10, 10.1, 10.1))
    with pytest.raises(InputRefusedError, match=r"DEM tile.tif has no elevation in the area 9\.98"):
        find_dem(str(tile), elsewhere)
    with pytest.raises(UsageError, match=r"mosaic\.vrt is a \.vrt file; expected a GeoTIFF"):
        find_dem(str(tmp_path / "mosaic.vrt"), AREA)
    with pytest.raises(UsageError, match="is a file; --dem-collection goes with a catalog"):
        find_dem(str(tile), AREA, collections=("a",))
    with pytest.raises(InputRefusedError, match=r"none\.tif cannot be read"):
        find_dem(str(tmp_path / "none.tif"), AREA)
    with pytest.raises(InputRefusedError, match="has no collection nasadem; it has: cop-dem-glo-30"):
        find_dem(catalog(tmp_path, item("a", tile.name)), AREA, collections=("nasadem",))
    feet = {"raster:bands": [{"unit": "foot"}]}
    with pytest.raises(InputRefusedError, match="DEM item a has elevations in foot; expected metres"):
        find_dem(catalog(tmp_path, item("a", tile.name, **feet)), AREA)
    two = item("a", tile.name, key="one", roles=["data"])
    two["assets"]["two"] = two["assets"]["one"]
    with pytest.raises(InputRefusedError, match=r"several assets of elevations \(one, two\)"):
        find_dem(catalog(tmp_path, two), AREA)
    with pytest.raises(InputRefusedError, match=r"no assets of elevations \(no GeoTIFF\)"):
        find_dem(catalog(tmp_path, item("a", "x.png", type="image/png")), AREA)


def test_no_address_escapes_the_check(tmp_path, tile):
    with pytest.raises(AddressRefusedError, match="to trust it: --allow-root"):
        find_dem(catalog(tmp_path, item("a", "/etc/dem.tif")), AREA)
    with pytest.raises(AddressRefusedError, match=r"to trust it: --allow-host dem\.example"):
        find_dem(catalog(tmp_path, item("a", "https://dem.example/a.tif")), AREA)
    with pytest.raises(InputRefusedError, match="carries a signature"):
        find_dem(catalog(tmp_path, item("a", "https://dem.example/a.tif?sig=abc")), AREA)
    with pytest.raises(InputRefusedError, match="carries a signature") as caught:
        find_dem("https://dem.example/a.tif?sig=abc", AREA)
    assert "abc" not in str(caught.value)
    local = {"type": "FeatureCollection", "features": [item("a", tile.as_uri())]}
    with (
        serve({"/items.json": Page(local)}) as root,
        pytest.raises(AddressRefusedError, match="is a local file, which a remote catalog may not name"),
    ):
        find_dem(f"{root}/items.json", AREA)
    with (
        serve({"/a.tif": Page({}, 302, "http://169.254.0.1/b.tif")}) as root,
        pytest.raises(AddressRefusedError, match=r"169\.254\.0\.1"),
    ):
        find_dem(f"{root}/a.tif", AREA, policy=AddressPolicy())


def test_a_link_that_leads_nowhere_is_no_missing_ground(tmp_path, tile):
    links = [{"rel": "item", "href": name} for name in ("a.json", "b.json")]
    (tmp_path / "a.json").write_text(json.dumps(item("a", tile.name)))
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "dem", "links": links}))
    with pytest.raises(InputRefusedError, match=r"DEM catalog\.json: .*b\.json: link not followed"):
        find_dem(str(tmp_path), AREA)
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text())
    assert [t.name for t in find_dem(str(tmp_path), AREA).tiles] == ["a", "a"]


def test_a_run_keeps_its_dem_and_no_other(tile):
    store = MemoryStore()
    dem = find_dem(str(tile), AREA)
    assert read_dem(store, str(tile), ()) is None
    keep_dem(store, dem)
    assert read_dem(store, str(tile), ()) == dem
    assert read_dem(store, "other.tif", ()) is None
    assert read_dem(store, str(tile), ("collection",)) is None
    store.put(DEM, b'{"of another": "version"}')
    assert read_dem(store, str(tile), ()) is None
