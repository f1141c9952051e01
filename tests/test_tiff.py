"""TIFFs against rasterio, however pixels are stored; what a hostile file claims or names is refused."""

import lzma
import struct
import subprocess
import sys
import zlib
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from coseis import geotiff, tiff
from coseis.blocks import kept_blocks
from coseis.errors import InputRefusedError
from coseis.geotiff import fill_physical, forget_headers, header_of, read_reduced
from coseis.tiff import Block, compose_tiff, parse_tiff
from coseis.types import BandSource
from fault_proxy import faulty
from making import UTM, grid, texture
from nginx import nginx
from serving import serve

AFFINE = grid(1, 1).affine
SHAPE = (150, 210)
COMPRESSIONS = [
    {"compress": "none"}, {"compress": "lzw", "predictor": 2}, {"compress": "deflate", "predictor": 2},
    {"compress": "zstd"}, {"compress": "lzma"}, {"compress": "packbits"},
    {"compress": "lerc", "max_z_error": 0},
    {"compress": "webp", "webp_lossless": True}, {"compress": "jpeg", "photometric": "ycbcr"},
    {"compress": "jpeg"}, {"compress": "deflate", "endianness": "big"},
    {"compress": "none", "bigtiff": "yes"},
]  # fmt: skip
TYPES = ["uint8", "uint16", "int16", "float32"]


def write(path, pixels, **options):
    profile = {
        "driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype, "height": pixels.shape[1],
        "width": pixels.shape[2], "crs": UTM, "transform": AFFINE, "compress": "deflate", "tiled": True,
        "blockxsize": 64, "blockysize": 48,
    }  # fmt: skip
    with rasterio.open(path, "w", **(profile | options)) as file:
        if len(pixels):
            file.write(pixels)
    return path


def header(path):
    forget_headers()
    kept_blocks.clear()
    return header_of(str(path), path.name, None)


def read(path, window=None, bands=(1,)):
    found = header(path)
    window = window or Window(0, 0, found.shape[1], found.shape[0])
    out = np.empty((len(bands), window.height, window.width), np.float32)
    sources = [BandSource(band=str(index), asset="a", href=str(path), index=index) for index in bands]
    fill_physical(found, sources, window, out, shared_px=0)
    return out


@pytest.mark.parametrize("options", COMPRESSIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_way_to_store_pixels_is_read_as_by_rasterio(tmp_path, options):
    name = options["compress"]
    types = [dtype for dtype in TYPES if dtype == "uint8" or name not in ("webp", "jpeg")]
    for number, (dtype, interleave, tiled) in enumerate(product(types, ("pixel", "band"), (True, False))):
        if interleave == "band" and (name == "webp" or "photometric" in options):
            continue
        pixels = texture((3, *SHAPE), seed=number).astype(dtype)
        layout = {} if tiled else {"tiled": False, "blockxsize": None, "blockysize": 16}
        path = write(tmp_path / f"{number}.tif", pixels, interleave=interleave, **(options | layout))
        window = Window(17, 33, 150, 101)
        with rasterio.open(path) as file:
            expected = file.read([3, 1], window=window)
            assert (file.crs, file.transform, file.dtypes) == (
                header(path).crs, header(path).transform, header(path).dtypes
            )  # fmt: skip
        np.testing.assert_array_equal(read(path, window, bands=(3, 1)), expected)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("resampling", [Resampling.average, Resampling.nearest])
def test_reduced_images_are_rasterios(tmp_path, monkeypatch, resampling, tiled):
    pixels = texture((3, 400, 600))
    layout = {} if tiled else {"tiled": False, "blockxsize": None, "blockysize": 16}
    path = write(tmp_path / "plain.tif", pixels, **layout)
    with rasterio.open(path) as file:
        oracle = file.read(out_shape=(3, 100, 150), resampling=resampling)
    whole = Window(0, 0, 600, 400)
    reduced = read_reduced(header(path), (1, 2, 3), whole, (100, 150), resampling=resampling)
    np.testing.assert_array_equal(reduced, oracle)
    monkeypatch.setattr(geotiff, "REDUCED_BYTES", 100_000)
    again = read_reduced(header(path), (1, 2, 3), whole, (100, 150), resampling=resampling)
    np.testing.assert_array_equal(again, oracle)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    with rasterio.open(path, OVERVIEW_LEVEL=1) as file:
        oracle = file.read()
    assert len(header(path).tiff.levels) == 3
    reduced = read_reduced(header(path), (1, 2, 3), whole, (100, 150), resampling=resampling)
    np.testing.assert_array_equal(reduced, oracle)


def test_one_long_strip_is_read_in_pieces(tmp_path):
    pixels = texture((2, 700, 1000)).astype(np.uint16)
    layout = {"tiled": False, "blockxsize": None, "blockysize": 700, "compress": "none"}
    for interleave in ("pixel", "band"):
        path = write(tmp_path / f"{interleave}.tif", pixels, interleave=interleave, **layout)
        assert header(path).tiff_block_shape[0] < 700
        np.testing.assert_array_equal(
            read(path, Window(5, 90, 900, 600), (2, 1)), pixels[::-1, 90:690, 5:905]
        )


def test_holes_stay_holes_and_masks_by_a_band_are_kept(tmp_path):
    path = tmp_path / "sparse.tif"
    write(path, np.zeros((0, 150, 210), np.uint8), count=1, sparse_ok=True, nodata=7)
    assert not header(path).tiff.levels[0].image.counts.any()
    assert np.isnan(read(path)).all()
    pixels = texture((4, *SHAPE))
    pixels[3] = np.where(np.arange(SHAPE[1]) < 50, 0, 255)
    for interleave in ("pixel", "band"):
        path = write(
            tmp_path / f"{interleave}.tif", pixels, interleave=interleave, photometric="rgb", alpha="yes"
        )
        values = read(path, bands=(1, 2, 3))
        assert np.isnan(values[:, :, :50]).all()
        np.testing.assert_array_equal(values[:, :, 50:], pixels[:3, :, 50:])


def patched(path, tag, value):
    """The file with another number in a tag of its first directory, classic and little-endian."""
    content = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, start)[0]):
        at = start + 2 + 12 * entry
        if struct.unpack_from("<H", content, at)[0] == tag:
            struct.pack_into("<HII", content, at + 2, 4, 1, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        (
            tiff.WIDTH,
            2**31,
            "it claims 2147483648 x 150 px in 1 bands, .*|it claims [0-9]+ stored blocks; at most",
        ),
        (tiff.HEIGHT, 2**32 - 1, "it claims [0-9]+ stored blocks; at most 1048576"),
        (tiff.SAMPLES, 60_000, "it claims 60000 bands; at most 1000 are opened"),
        (
            tiff.TILE_WIDTH,
            2**23,
            "it is stored in blocks of 8388608 x 48 px, .*at most 134217728 are decoded",
        ),
        (tiff.TILE_WIDTH, 0, "it claims blocks of 0 x 48 px"),
        (tiff.BITS, 4096, "it claims 4096 bits a sample"),
        (tiff.COMPRESSION, 6, "it is compressed by method 6; known are none, LZW"),
        (tiff.HEIGHT, 15_000, "it lists 16 of its 1252 stored blocks"),
    ],
)
def test_what_a_header_may_claim_has_limits(tmp_path, tag, value, said):
    path = patched(write(tmp_path / "bomb.tif", texture((1, *SHAPE))), tag, value)
    with pytest.raises(InputRefusedError, match=f"bomb.tif cannot be read: ({said})"):
        header(path)


def test_values_and_loops_have_limits(tmp_path):
    path = write(tmp_path / "wide.tif", texture((1, *SHAPE)), blockxsize=2**13, blockysize=2**13)
    for tag, value in ((tiff.WIDTH, 2**22), (tiff.HEIGHT, 2**22)):
        patched(path, tag, value)
    with pytest.raises(InputRefusedError, match="at most 1099511627776 values are opened"):
        header(path)
    content = bytearray(write(tmp_path / "loop.tif", texture((1, *SHAPE))).read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    struct.pack_into("<I", content, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], start)
    (tmp_path / "loop.tif").write_bytes(content)
    assert len(header(tmp_path / "loop.tif").tiff.levels) == 1


def test_an_image_without_overviews_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(geotiff, "MAX_REDUCED_BYTES", 50_000)
    path = write(tmp_path / "plain.tif", texture((3, *SHAPE)))
    with pytest.raises(
        InputRefusedError, match=r"plain\.tif has no overviews, and to reduce it 0\.0 GiB would be"
    ):
        read_reduced(header(path), [1], Window(0, 0, 210, 150), (10, 10), resampling=Resampling.average)


def test_a_block_that_claims_more_bytes_than_it_can_need_is_refused(tmp_path):
    path = write(tmp_path / "long.tif", texture((1, 40, 60)))
    patched(path, tiff.TILE_COUNTS, 2**31)
    with pytest.raises(InputRefusedError, match="a block of 3072 bytes claims to be stored in 2147483648"):
        read(path)


BOMB = """
import resource, sys
import numpy as np
import pyarrow as pa
from pathlib import Path
from test_tiff import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(float(np.nanmax(read(Path(sys.argv[1])))))
except Exception as error:
    print(type(error).__name__)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("compress", ["deflate", "zstd", "lzma"])
def test_a_tile_that_inflates_beyond_its_block_takes_no_memory(tmp_path, compress):
    """A gigabyte of zeros stored as one tile of 48 x 64 px: the tile alone is decoded."""
    path = write(tmp_path / "bomb.tif", texture((1, 48, 64)), compress=compress)
    packed = {
        "deflate": lambda: zlib.compress(bytes(2**30), 1),
        "zstd": lambda: pa.compress(bytes(2**30), codec="zstd", asbytes=True),
        "lzma": lambda: lzma.compress(bytes(2**28)),
    }[compress]()
    content = path.read_bytes()
    parsed = parse_tiff(lambda offset, count: content[offset : offset + count])
    level = parsed.levels[0]
    path.write_bytes(
        compose_tiff(parsed, level, (range(1), range(1)), [{Block(0, 0, 0): packed}], placed=True)
    )
    words = [sys.executable, "-W", "ignore", "-c", BOMB, str(path)]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    said, grown_mb = done.stdout.split()
    assert said in ("0.0", "InputRefusedError")
    assert int(grown_mb) < 64


def test_what_a_file_names_is_neither_fetched_nor_read(tmp_path):
    """A VRT as body, and files beside the file: overviews, a mask, statistics, a world file."""
    folder = tmp_path / "served"
    folder.mkdir()
    pixels = texture((1, *SHAPE))
    write(folder / "plain.tif", pixels)
    with serve({}) as inner, faulty(inner, lambda request: None) as forbidden:
        vrt = (
            '<VRTDataset rasterXSize="210" rasterYSize="150"><VRTRasterBand dataType="Byte" band="1">'
            f"<SimpleSource><SourceFilename>/vsicurl/{forbidden.address}/x.tif</SourceFilename>"
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
        )
        for name in ("plain.tif.ovr", "plain.tif.msk", "body.tif"):
            (folder / name).write_text(vrt)
        (folder / "plain.tif.aux.xml").write_text(
            f"<PAMDataset><SRS>EPSG:3857</SRS><Metadata><MDI key='x'>/vsicurl/{forbidden.address}/y</MDI>"
            "</Metadata></PAMDataset>"
        )
        (folder / "plain.tfw").write_text("9\n0\n0\n-9\n0\n0\n")
        with nginx(folder) as address, faulty(address, lambda request: None) as proxy:
            for root in (str(folder), proxy.address):
                forget_headers()
                kept_blocks.clear()
                found = header_of(f"{root}/plain.tif", "plain", None)
                assert (found.crs, found.transform, found.masked) == (
                    rasterio.CRS.from_string(UTM),
                    AFFINE,
                    False,
                )
                reduced = read_reduced(
                    found, [1], Window(0, 0, 210, 150), (50, 70), resampling=Resampling.nearest
                )
                assert reduced.max() > 100
                with pytest.raises(InputRefusedError, match="body cannot be read: it is no TIFF"):
                    header_of(f"{root}/body.tif", "body", None)
            assert {request.path for request in proxy.requests} == {"/plain.tif", "/body.tif"}
        for name in (f"GTIFF_DIR:1:{folder}/plain.tif", f"/vsicurl/{forbidden.address}/x.tif", f"{folder}"):
            with pytest.raises(InputRefusedError, match="x cannot be read"):
                header_of(name, "x", None)
        assert not forbidden.requests
