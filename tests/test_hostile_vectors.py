"""AOI and label files that strangers made: nothing else is read, no server asked, one clear line."""

import io
import json
import sqlite3
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from coseis.errors import UsageError
from coseis.labels import LabelConfig, open_labels
from coseis.priority import order_chunks
from coseis.vectors import MAX_MEMBERS, read_features
from coseis.windows import Chunk
from fault_log import Outcome, note_fault
from making import area_of
from serving import Page, serve
from test_cli import GRID, coseis, files, job, no_workers  # noqa: F401

SECRET = "canary-4711"
BOX = shapely.geometry.shape(area_of(GRID, inset_px=8))


@pytest.fixture
def secret(tmp_path) -> Path:
    """A good polygon file that a hostile one points at: if its polygon comes back, it was followed."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.csv").write_text(f'name,WKT\n{SECRET},"{BOX.wkt}"\n')
    gpd.GeoDataFrame({"name": [SECRET]}, geometry=[BOX], crs=4326).to_file(folder / "secret.gpkg")
    return folder


def vrt(secret: Path, root: str) -> str:
    return (
        f'<OGRVRTDataSource><OGRVRTLayer name="secret"><SrcDataSource>{secret}/secret.csv</SrcDataSource>'
        '<LayerSRS>EPSG:4326</LayerSRS><GeometryField encoding="WKT" field="WKT"/></OGRVRTLayer>'
        "</OGRVRTDataSource>"
    )


def pipeline(secret: Path, root: str) -> str:
    command = f"gdal vector pipeline ! read {secret}/secret.csv ! write --of=stream streamed_dataset"
    return json.dumps({"type": "gdal_streamed_alg", "command_line": command})


def kml(secret: Path, root: str) -> str:
    link = f"<NetworkLink><Link><href>{root}/x.kml</href></Link></NetworkLink>"
    return (
        f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{link}</Document></kml>'
    )


def gml(secret: Path, root: str) -> str:
    return (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}/secret.csv">]>'
        '<FeatureCollection xmlns="http://www.opengis.net/gml" '
        'xmlns:xlink="http://www.w3.org/1999/xlink"><boundedBy>&e;</boundedBy>'
        f'<featureMember xlink:href="{root}/x.gml"/></FeatureCollection>'
    )


def wfs(secret: Path, root: str) -> str:
    return f"<OGRWFSDataSource><URL>{root}/wfs</URL></OGRWFSDataSource>"


def esri(secret: Path, root: str) -> str:
    return json.dumps({"type": "FeatureCollection", "features": f"{root}/query", "geometryType": "x"})


def topology(secret: Path, root: str) -> str:
    return json.dumps({"type": "Topology", "objects": {}, "arcs": []})


BODIES = [vrt, pipeline, kml, gml, wfs, esri, topology]


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".gpkg", ".shp", ".fgb", ".zip", ".kml", ".gml"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.usefixtures("no_workers")
def test_content_decides_nothing_but_a_refusal(coseis, job, secret, body, suffix):  # noqa: F811
    asked: dict[str, Page] = {}
    with serve(_Watched(asked)) as root:
        path = job.folder / f"area{suffix}"
        path.write_text(body(secret, root))
        line = coseis(*job.words(aoi=path)).refused(2)
    assert "AOI file cannot be read as vector data: it " in line
    assert SECRET not in line
    assert asked == {}
    assert not files(job.out)
    with pytest.raises(UsageError, match=r"cannot be read|unknown suffix"):
        open_labels(path, GRID)


class _Watched(dict[str, Page]):
    """Pages that note who asks for them."""

    def __init__(self, asked: dict[str, Page]) -> None:
        super().__init__()
        self._asked = asked

    def get(self, path: str, default: Page | None = None) -> Page:
        self._asked[path] = Page("")
        return Page("")


@pytest.mark.parametrize(
    "word",
    ["/vsizip//vsicurl/{root}/a.zip", "/vsicurl/{root}/a.geojson", "{root}/a.geojson", "PG:host=127.0.0.1",
     "WFS:{root}", "GeoJSON:/etc/passwd", "/vsistdin/", "CSV:/etc/passwd", "MVT:{root}", "/dev/zero", "/"],
)  # fmt: skip
@pytest.mark.usefixtures("no_workers")
def test_a_path_is_a_path_and_nothing_else(coseis, job, word):  # noqa: F811
    asked: dict[str, Page] = {}
    with serve(_Watched(asked)) as root:
        given = word.format(root=root)
        coseis(*job.words(aoi=given)).refused(2)
        with pytest.raises(UsageError):
            order_chunks([Chunk(0, 0, 0, 0, 8, 8)] * 2, GRID, given)
        with pytest.raises(UsageError):
            open_labels(given, GRID)
    assert asked == {}


def a_shapefile(folder: Path) -> dict[str, bytes]:
    gpd.GeoDataFrame({"kind": ["slide"]}, geometry=[BOX], crs=4326).to_file(folder / "area.shp")
    return {path.name: path.read_bytes() for path in folder.glob("area.*")}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def traversal(files: dict[str, bytes]) -> bytes:
    return zipped(files | {"../../outside.txt": b"x"})


def absolute(files: dict[str, bytes]) -> bytes:
    return zipped(files | {"/etc/cron.d/x": b"x"})


def drive(files: dict[str, bytes]) -> bytes:
    return zipped(files | {"C:\\x.txt": b"x"})


def symlink(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("area.shp")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def bomb(files: dict[str, bytes]) -> bytes:
    """32 MiB, in 32 kB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(4):
            archive.writestr(f"{number}.dbf", bytes(2**23))
    return buffer.getvalue()


def liar(files: dict[str, bytes]) -> bytes:
    """A member that unpacks to more than it says."""
    body = bytearray(zipped({"area.shp": b"\x00\x00\x27\x0a" + bytes(2**22)}))
    place = body.index(b"PK\x01\x02")
    body[place + 24 : place + 28] = struct.pack("<I", 100)
    return bytes(body)


def nested(files: dict[str, bytes]) -> bytes:
    return zipped({"inner.zip": zipped(files)})


def many(files: dict[str, bytes]) -> bytes:
    return zipped(files | {f"{number}.txt": b"" for number in range(MAX_MEMBERS)})


def empty(files: dict[str, bytes]) -> bytes:
    return zipped({"readme.txt": b"no shapefile here"})


def two(files: dict[str, bytes]) -> bytes:
    return zipped(files | {f"b{name[4:]}": content for name, content in files.items()})


def damaged(files: dict[str, bytes]) -> bytes:
    body = bytearray(zipped(files))
    body[60:90] = bytes(range(200, 230))
    return bytes(body)


def overlapping(files: dict[str, bytes]) -> bytes:
    """Two entries of the directory that name the same bytes."""
    body = zipped({"area.shp": files["area.shp"], "area.dbf": files["area.dbf"]})
    first, second = body.index(b"PK\x01\x02"), body.rindex(b"PK\x01\x02")
    place = body[first + 42 : first + 46]
    return body[: second + 42] + place + body[second + 46 :]


def encrypted(files: dict[str, bytes]) -> bytes:
    body = bytearray(zipped({"area.shp": files["area.shp"]}))
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(start) + flags] |= 1
    return bytes(body)


ARCHIVES = [traversal, absolute, drive, symlink, bomb, liar, nested, many, empty, two, damaged, overlapping,
            encrypted]  # fmt: skip


@pytest.mark.parametrize("make", ARCHIVES, ids=lambda make: make.__name__)
@pytest.mark.usefixtures("no_workers")
def test_archives_are_refused_and_nothing_is_unpacked_beside(coseis, job, make, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "made").mkdir()
    work = tmp_path / "temporary"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    monkeypatch.setattr("coseis.vectors.MAX_FILE_BYTES", 2**24)
    path = job.folder / "area.zip"
    path.write_bytes(make(a_shapefile(tmp_path / "made")))
    before = set(tmp_path.rglob("*"))
    line = coseis(*job.words(aoi=path)).refused(2)
    assert "AOI file cannot be read as vector data: " in line
    assert set(tmp_path.rglob("*")) - {job.out} == before
    assert list(work.iterdir()) == []


def test_a_good_archive_is_read_whatever_lies_beside(tmp_path):
    files = a_shapefile(tmp_path)
    extra = {"__MACOSX/._area.shp": b"x", "readme.txt": b"hello"}
    inside = {f"some/folder/{name}": content for name, content in files.items()}
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(inside | extra))
    features = read_features(path, "kind")
    assert features.values == ["slide"]
    assert features.shapes.iloc[0].equals(BOX)


def geopackage(folder: Path) -> Path:
    path = folder / "area.gpkg"
    gpd.GeoDataFrame({"kind": ["slide"]}, geometry=[BOX], crs=4326).to_file(path, layer="area")
    return path


SPOILED = {
    "a view": ["ALTER TABLE area RENAME TO hidden", "CREATE VIEW area AS SELECT * FROM hidden"],
    "an endless view": [
        "DROP TABLE area",
        "CREATE VIEW area AS WITH RECURSIVE n(fid) AS (SELECT 1 UNION ALL SELECT fid + 1 FROM n) "
        "SELECT fid, x'00' AS geom FROM n",
    ],
    "a virtual table": ["DROP TABLE area", "CREATE VIRTUAL TABLE area USING fts5(geom)"],
    "a generated column": [
        "ALTER TABLE area ADD COLUMN stolen TEXT GENERATED ALWAYS AS (upper(kind)) VIRTUAL",
        "UPDATE gpkg_geometry_columns SET column_name = 'stolen'",
    ],
    "no such table": ["UPDATE gpkg_contents SET table_name = 'sqlite_master'"],
    "two layers": [
        "CREATE TABLE more (fid INTEGER PRIMARY KEY, geom BLOB)",
        "INSERT INTO gpkg_contents (table_name, data_type, srs_id) VALUES ('more', 'features', 4326)",
        "INSERT INTO gpkg_geometry_columns VALUES ('more', 'geom', 'POLYGON', 4326, 0, 0)",
    ],
    "text for geometry": ["UPDATE area SET geom = 'file:///etc/passwd'"],
    "damaged geometry": ["UPDATE area SET geom = substr(geom, 1, 60)"],
    "an unknown CRS": [
        "UPDATE gpkg_geometry_columns SET srs_id = 99",
        "INSERT INTO gpkg_spatial_ref_sys VALUES ('x', 99, 'none', 99, 'GEOGCS[', '')",
    ],
    "a CRS that is a file": [
        "UPDATE gpkg_geometry_columns SET srs_id = 99",
        "INSERT INTO gpkg_spatial_ref_sys VALUES ('x', 99, 'x', 99, '/etc/passwd', '')",
    ],
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.usefixtures("no_workers")
def test_geopackages_bring_no_sql_along(coseis, job, name):  # noqa: F811
    path = geopackage(job.folder)
    with sqlite3.connect(path) as database:
        for (trigger,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        for statement in SPOILED[name]:
            database.execute(statement)
    database.close()
    content = path.read_bytes()
    line = coseis(*job.words(aoi=path)).refused(2)
    assert "AOI file cannot be read as vector data: " in line
    assert path.read_bytes() == content


def test_a_trigger_is_never_run(tmp_path):
    path = geopackage(tmp_path)
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TRIGGER t AFTER DELETE ON area BEGIN SELECT load_extension('/tmp/x.so'); END"
        )
    database.close()
    assert read_features(path, "kind").values == ["slide"]
    assert [name.name for name in tmp_path.iterdir()] == ["area.gpkg"]


def dictionary_bomb(path: Path) -> None:
    """A megabyte of outline, named by a million rows: a few hundred kilobytes."""
    wkb = shapely.to_wkb(BOX.segmentize(BOX.length / 60_000))
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array([wkb]))
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    table = pa.table({"geometry": column}).replace_schema_metadata({"geo": json.dumps(geo)})
    pq.write_table(table, path, compression="zstd")


def no_geo(path: Path) -> None:
    pq.write_table(pa.table({"geometry": [b"x"]}), path)


def odd_geo(path: Path) -> None:
    pq.write_table(pa.table({"geometry": [b"x"]}).replace_schema_metadata({"geo": '{"columns": 3}'}), path)


def cut_off(path: Path) -> None:
    gpd.GeoDataFrame(geometry=[BOX], crs=4326).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20] + b"PAR1")


@pytest.mark.parametrize("make", [dictionary_bomb, no_geo, odd_geo, cut_off], ids=lambda make: make.__name__)
@pytest.mark.usefixtures("no_workers")
def test_parquet_is_counted_before_it_is_laid_out(coseis, job, make):  # noqa: F811
    path = job.folder / "area.parquet"
    make(path)
    assert path.stat().st_size < 2**22
    assert "AOI file cannot be read" in coseis(*job.words(aoi=path)).refused(2)
    with pytest.raises(UsageError, match="cannot be read"):
        open_labels(path, GRID)


def ring(count: int) -> list[list[float]]:
    angle = np.linspace(0, 2 * np.pi, count)
    west, south, east, north = BOX.bounds
    radius = 0.4 * (1 + 0.2 * np.sin(7 * angle))
    x = (west + east) / 2 + radius * np.cos(angle) * (east - west)
    y = (south + north) / 2 + radius * np.sin(angle) * (north - south)
    outline = np.round(np.stack([x, y], axis=1), 8).tolist()
    return [*outline[:-1], outline[0]]


def write_outline(path: Path, count: int) -> None:
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [ring(count)]},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


@pytest.mark.usefixtures("no_workers")
def test_an_area_of_too_many_vertices_says_how_to_simplify_it(coseis, job, monkeypatch):  # noqa: F811
    monkeypatch.setattr("coseis.event.MAX_AOI_VERTICES", 5000)
    path = job.folder / "area.geojson"
    write_outline(path, 6000)
    line = coseis(*job.words(aoi=path)).refused(2)
    assert "AOI file has 6000 vertices; expected at most 5000: simplify it" in line


def geojson(**members: object) -> str:
    return json.dumps(
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(BOX))} | members
    )


@pytest.mark.parametrize(
    "text",
    [
        "{" * 5,
        '{"type": "Feature", "geometry": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": ' + "[" * 900 + "]" * 900 + "}}",
        geojson(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]}),
        geojson(geometry={"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 1], [1, 1], [0, 0]]]}),
        geojson(geometry={"type": "Polygon", "coordinates": [[[10**400, 0], [1, 1], [0, 1], [0, 0]]]}),
        geojson(geometry={"type": "Banana", "coordinates": []}),
        geojson(geometry={"type": "GeometryCollection", "geometries": []}),
        geojson(geometry=[1, 2]),
        geojson(geometry="http://127.0.0.1/x"),
        geojson(crs={"type": "link", "properties": {"href": "http://127.0.0.1/crs.prj"}}),
        geojson(crs={"type": "name", "properties": {"name": "/etc/passwd"}}),
        geojson(crs={"type": "name", "properties": {"name": "+proj=utm +nadgrids=/etc/passwd"}}),
        '{"type": "FeatureCollection", "features": [null, 3]}',
        '{"type": "FeatureCollection", "features": {"a": 1}}',
        '{"type": "FeatureCollection"}',
        "{}",
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
@pytest.mark.usefixtures("no_workers")
def test_odd_geojson_is_refused_in_one_line(coseis, job, text):  # noqa: F811
    path = job.folder / "area.geojson"
    path.write_text(text)
    coseis(*job.words(aoi=path)).refused(2)
    with pytest.raises(UsageError):
        open_labels(path, GRID, LabelConfig())


PEAK = """
import resource, sys
from coseis.errors import UsageError
from coseis.event import read_area
from coseis.priority import order_chunks
from coseis.vectors import read_features
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_features(Path(sys.argv[1])).shapes))
    read_area(sys.argv[1])
except (UsageError, ValueError) as error:
    print(str(error)[:300])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak_mib(path: Path) -> tuple[str, int]:
    """What is said of a file, and how much memory reading it took."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, timeout=300
    )
    *said, peak = done.stdout.splitlines()
    return " ".join(said), int(peak)


def lists(path: Path) -> None:
    with path.open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [[]')
        for _ in range(16):
            file.write(",[]" * 3_000_000)
        file.write("]}")


def many_vertices(path: Path) -> None:
    if path.suffix == ".gpkg":
        angle = np.linspace(0, 2 * np.pi, 10_000_000)
        angle[-1] = 0
        west, south, east, north = BOX.bounds
        outline = np.stack(
            [(west + east) / 2 + 0.1 * np.cos(angle), (south + north) / 2 + 0.1 * np.sin(angle)], 1
        )
        gpd.GeoDataFrame(geometry=[shapely.Polygon(outline)], crs=4326).to_file(path)
        return
    with path.open("w") as file:
        file.write('{"type": "Polygon", "coordinates": [[')
        for _ in range(10):
            file.write("[141.9294871,42.6861234]," * 1_000_000)
        file.write("[141.9294871,42.6861234]]]}")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("make", "suffix", "said"),
    [
        (lists, ".geojson", "it would take"),
        (many_vertices, ".geojson", "it would take"),
        (many_vertices, ".gpkg", "AOI file has 10000000 vertices; expected at most 500000"),
        (dictionary_bomb, ".parquet", "it holds more than"),
    ],
    ids=["lists", "10M vertices", "10M vertices of a GeoPackage", "dictionary"],
)
def test_memory_is_bounded_whatever_a_file_holds(
    tmp_path: Path, make: Callable[[Path], object], suffix: str, said: str
) -> None:
    path = tmp_path / f"bomb{suffix}"
    make(path)
    message, peak = peak_mib(path)
    assert said in message
    note_fault("hostile input", f"{suffix} that fills the memory", Outcome.REFUSED)
    assert peak < 1600, (message, peak)
