"""The reading benchmark in miniature: its row says all it promises, and all readers read the same pixels."""

import json

import pytest

import read
from read_contenders import READERS

# Moto and snailmail close their sockets late.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    from contextlib import redirect_stdout
    from io import StringIO

    printed = StringIO()
    with redirect_stdout(printed):
        read.main(["--quick"])
    (line,) = printed.getvalue().splitlines()
    return json.loads(line)


def test_row_describes_itself(row):
    assert row["benchmark"] == "read"
    assert row["shape"] == [2, 4, 700, 700]
    assert row["threads"]["remote"] == 16
    assert set(row["machine"]["versions"]) == {"python", "coseis", "rasterio", "stackstac", "odc-stac"}


def test_every_place_and_grid_is_measured(row):
    measured = [(case["access"], case["grid"]) for case in row["cases"]]
    assert measured == [(access, grid) for access in ("local", "http", "s3") for grid in ("same", "other")]
    for case in row["cases"]:
        assert set(case["seconds"]) == set(READERS)
        assert set(case["ratios"]) == set(READERS) - {"coseis"}
        assert all(rate > 0 for rate in case["mb_s"].values())


def test_all_readers_read_the_same(row):
    """On the scenes' own grid to the bit; on another within GDAL's tolerance, which differs, and rounding."""
    for case in row["cases"]:
        assert max(case["differences"].values()) <= (0 if case["grid"] == "same" else 5), case["access"]


def test_no_block_is_decoded_twice(row):
    for case in row["cases"]:
        assert case["amplification"] <= 1
        assert case["amplification_with_halo"] <= 1
