"""Every format against the inventory that it was made of, read back by GDAL."""

import json
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import adbc_driver_duckdb
import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from click.testing import CliRunner

from coseis.cli import cli
from coseis.errors import InputRefusedError
from coseis.formats import FORMATS, SHAPEFILE_NAMES, export_run, write_format
from coseis.landform import TERRAIN_COLUMNS
from coseis.objects import open_store, put_object
from coseis.publish import EXPOSURE_TYPES, INVENTORY_COLUMNS, RUN_COLUMNS, write_inventory
from making import UTM

KML = {"k": "http://www.opengis.net/kml/2.2"}


def inventory(count=3):
    """Squares, one with a hole, with every column that a run writes."""
    squares = [shapely.box(583000 + 100 * n, 4737000, 583060 + 100 * n, 4737060) for n in range(count)]
    if squares:
        squares[0] -= shapely.box(583020, 4737020, 583030, 4737030)
    columns = {
        name: {
            "string": [f"{name} {n} ü" for n in range(count)],
            "bool": [n % 2 == 0 for n in range(count)],
        }.get(kind, np.arange(count) / 7)
        for name, kind in (INVENTORY_COLUMNS | RUN_COLUMNS).items()
    }
    columns["change"] = ["new", "pre-existing", "unknown"][:count]
    types = INVENTORY_COLUMNS | RUN_COLUMNS
    return gpd.GeoDataFrame(pd.DataFrame(columns).astype(types), geometry=squares, crs=UTM)


@pytest.mark.parametrize("name", ["geopackage", "flatgeobuf"])
def test_all_of_it_is_read_back(tmp_path, name):
    made = inventory()
    back = pyogrio.read_dataframe(write_format(name, made, tmp_path))
    back = back.set_index("id").loc[made["id"]].reset_index()  # FlatGeobuf orders by place
    assert back.crs == made.crs
    assert back.geometry.geom_equals(made.geometry).all()
    for column in INVENTORY_COLUMNS | RUN_COLUMNS:
        assert list(back[column]) == list(made[column]), column


def test_geoparquet_is_read_back_by_gdal_too(tmp_path):
    """By the one of its drivers that wheels have: DuckDB reads, over Arrow's interface for databases."""
    made = inventory()
    write_inventory(made, open_store(str(tmp_path)), "landslides.parquet")
    path = f"ADBC:{tmp_path / 'landslides.parquet'}"
    back = pyogrio.read_dataframe(path, ADBC_DRIVER=adbc_driver_duckdb.driver_path())
    assert back.crs == made.crs
    assert back.geometry.geom_equals(made.geometry).all()
    for column in INVENTORY_COLUMNS | RUN_COLUMNS:
        assert list(back[column]) == list(made[column]), column


def test_a_shapefile_has_names_of_ten_letters_and_says_all(tmp_path):
    made = inventory()
    path = write_format("shapefile", made, tmp_path)
    back = pyogrio.read_dataframe(path)
    assert back.crs == made.crs
    assert back.geometry.geom_equals(made.geometry).all()
    for column in INVENTORY_COLUMNS | RUN_COLUMNS:
        short = SHAPEFILE_NAMES.get(column, column)
        assert len(short) <= 10
        assert list(back[short]) == pytest.approx([
            int(value) if isinstance(value, bool) else value for value in made[column]
        ]) if made[column].dtype != "string" else list(made[column]), column  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        assert {name.rpartition(".")[2] for name in archive.namelist()} == {"shp", "shx", "dbf", "prj", "cpg"}


def test_all_that_a_run_writes_has_a_short_name_of_its_own():
    terrain = [*TERRAIN_COLUMNS, "dem_share", "dem_source"]
    written = [*INVENTORY_COLUMNS, *RUN_COLUMNS, *EXPOSURE_TYPES, "pixel_count", *terrain]
    names = [SHAPEFILE_NAMES.get(name, name) for name in written]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 10


def test_long_text_is_cut_to_what_a_shapefile_holds(tmp_path):
    made = inventory(1).assign(scenes="ü" * 200)
    [text] = pyogrio.read_dataframe(write_format("shapefile", made, tmp_path))["scenes"]
    assert text == "ü" * 125 + "…"


def test_a_long_name_is_refused_in_a_shapefile(tmp_path):
    with pytest.raises(InputRefusedError, match="ten letters, but distance_to_river have more"):
        write_format("shapefile", inventory().assign(distance_to_river=1.0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kmz_is_coloured_by_change_and_named(tmp_path):
    made = inventory()
    with zipfile.ZipFile(write_format("kmz", made, tmp_path)) as archive:
        root = ElementTree.fromstring(archive.read("layers/landslides.kml"))
    places = root.findall(".//k:Placemark", KML)
    assert [place.find("k:name", KML).text for place in places] == list(made["id"])
    lines = [place.find(".//k:LineStyle/k:color", KML).text for place in places]
    assert lines == ["ff00b0ff", "ffffa86e", "ffdad3c9"]  # alpha, blue, green, red
    assert len(root.findall(".//k:innerBoundaryIs", KML)) == 1


def test_a_table_of_centroids(tmp_path):
    made = inventory().assign(scenes=["=1+1", "@x", "20180911_a"])
    back = pd.read_csv(write_format("csv", made, tmp_path))
    centres = gpd.GeoSeries(gpd.points_from_xy(back.longitude, back.latitude), crs=4326).to_crs(UTM)
    assert centres.distance(made.centroid).max() < 0.2
    assert list(back["scenes"]) == ["'=1+1", "'@x", "20180911_a"]
    assert list(back["area_m2"]) == pytest.approx(list(made["area_m2"]))


@pytest.mark.parametrize("name", FORMATS)
def test_no_landslide_is_a_file_without_features(tmp_path, name):
    path = write_format(name, inventory(0), tmp_path)
    if name == "csv":
        assert pd.read_csv(path).empty
    elif name == "kmz":
        assert "Placemark" not in zipfile.ZipFile(path).read("layers/landslides.kml").decode()
    else:
        back = pyogrio.read_dataframe(path)
        assert back.empty
        assert "id" in back


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputRefusedError, match=r"landslides\.fgb cannot be written"):
        write_format("flatgeobuf", inventory(), tmp_path / "missing")


def test_a_run_is_exported_beside_its_map_and_named_in_its_item(tmp_path):
    store = open_store(str(tmp_path / "run"))
    write_inventory(inventory(), store, "landslides.parquet")
    put_object(store, "item.json", json.dumps({"id": "x", "assets": {"map.png": {}}}).encode())
    [path, table] = export_run(str(tmp_path / "run"), ["geopackage", "csv"])
    assert len(pyogrio.read_dataframe(path)) == len(pd.read_csv(table)) == 3
    assets = json.loads((tmp_path / "run" / "item.json").read_text())["assets"]
    assert list(assets) == ["map.png", "landslides.gpkg", "landslides.csv"]
    assert all((tmp_path / "run" / assets[name]["href"]).is_file() for name in list(assets)[1:])


def test_a_run_is_exported_to_another_folder(tmp_path):
    write_inventory(inventory(), open_store(str(tmp_path / "run")), "landslides.parquet")
    (tmp_path / "other").mkdir()
    assert export_run(str(tmp_path / "run"), ["kmz"], tmp_path / "other") == [
        str(tmp_path / "other" / "landslides.kmz")
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["landslides.parquet"]


def test_what_holds_no_inventory_is_refused(tmp_path):
    with pytest.raises(InputRefusedError, match="holds no inventory"):
        export_run(str(tmp_path), ["kmz"])


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("name", FORMATS)
def test_another_gdal_opens_it(tmp_path, name):
    path = write_format(name, inventory(), tmp_path)
    said = subprocess.run(["ogrinfo", "-so", "-al", path], capture_output=True, text=True, check=True).stdout
    assert "Feature Count: 3" in said


def test_the_command_knows_every_format(tmp_path):
    write_inventory(inventory(), open_store(str(tmp_path)), "landslides.parquet")
    said = CliRunner().invoke(cli, ["export", str(tmp_path)])
    assert said.exit_code == 0
    assert [Path(line.split()[-1]).name for line in said.output.splitlines()] == [
        made.file for made in FORMATS.values()
    ]
