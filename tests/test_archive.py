"""Archives read back with PMTiles' own reader."""

import numpy as np
from obstore.store import LocalStore
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import TileType

from coseis.archive import TileSpool, write_archive
from coseis.tiles import Tile


def test_tiles_put_in_any_order_are_found_in_an_ordered_archive(tmp_path):
    rng = np.random.default_rng(2)
    contents = {
        Tile(zoom, x, y): bytes([zoom, x, y]) * (1 + (x * y) % 5)
        for zoom in (6, 7, 8)
        for x in range(40, 46)
        for y in range(20, 26)
        if (x + y) % 7
    }
    with TileSpool() as spool:
        for number in rng.permutation(len(contents)):
            tile = list(contents)[number]
            spool.put(tile, b"an earlier version")
            spool.put(tile, contents[tile])
            assert spool.get(tile) == contents[tile]
        assert set(spool.of_zoom(7)) == {tile for tile in contents if tile.zoom == 7}
        write_archive(
            spool,
            LocalStore(tmp_path),
            "made.pmtiles",
            bounds=(8.25, 46, 9.5, 47),
            metadata={"name": "codes"},
        )
    with (tmp_path / "made.pmtiles").open("rb") as file:
        source = MmapSource(file)
        reader = Reader(source)
        header = reader.header()
        assert header["clustered"]
        assert header["tile_type"] == TileType.WEBP
        assert (header["min_zoom"], header["max_zoom"]) == (6, 8)
        assert (header["min_lon_e7"], header["max_lat_e7"]) == (82_500_000, 470_000_000)
        assert reader.metadata()["name"] == "codes"
        assert {Tile(*place): bytes(content) for place, content in all_tiles(source)} == contents
        assert reader.get(7, 41, 22) is None  # no tile was put there
