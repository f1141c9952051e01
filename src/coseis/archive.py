"""Tiles in any order go in, one PMTiles archive comes out: through a temporary file, in bounded memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from obstore.store import ObjectStore
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import write as open_pmtiles

from coseis.publish import upload
from coseis.tiles import Tile


class TileSpool:
    """Encoded tiles on disk, found again by their place: memory holds three numbers a tile.

    A region of 20,000 chunks has about 300,000 tiles a layer.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by __exit__
        self._places: dict[Tile, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> "TileSpool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def put(self, tile: Tile, content: bytes) -> None:
        """Keeps a tile; of two at the same place the later counts."""
        self._file.seek(self._end)
        self._file.write(content)
        self._places[tile] = self._end, len(content)
        self._end += len(content)

    def get(self, tile: Tile) -> bytes:
        """The content of a tile. Raises KeyError if there is none."""
        start, length = self._places[tile]
        self._file.seek(start)
        return self._file.read(length)

    def of_zoom(self, zoom: int) -> Iterator[Tile]:
        """The tiles of one zoom level."""
        return (tile for tile in self._places if tile.zoom == zoom)

    def in_order(self) -> Iterator[tuple[int, bytes]]:
        """(number in the archive, content) in the order in which PMTiles wants them."""
        numbered = sorted((zxy_to_tileid(*tile), tile) for tile in self._places)
        return ((number, self.get(tile)) for number, tile in numbered)


def write_archive(
    spool: TileSpool,
    store: ObjectStore,
    key: str,
    *,
    bounds: tuple[float, float, float, float],
    metadata: dict[str, Any],
) -> None:
    """Write WebP tiles as one PMTiles archive.

    The writer keeps the tiles in a temporary file of its own, so the folder of temporary files holds them
    three times at the end.

    Args:
        spool: At least one tile.
        store: Where the file goes.
        key: Its name there.
        bounds: West, south, east, north, in degrees.
        metadata: Name, attribution and the like, as map viewers show them.

    Raises:
        InputRefusedError: the store refuses the file.
        UnreachableError: the store does not answer.
    """
    west, south, east, north = (round(value * 1e7) for value in bounds)
    header = {
        "tile_type": TileType.WEBP,
        "tile_compression": Compression.NONE,
        "min_lon_e7": west,
        "min_lat_e7": south,
        "max_lon_e7": east,
        "max_lat_e7": north,
        "center_lon_e7": (west + east) // 2,
        "center_lat_e7": (south + north) // 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiles.pmtiles"
        with open_pmtiles(path) as writer:
            for number, content in spool.in_order():
                writer.write_tile(number, content)
            writer.finalize(header, metadata)
        upload(path, store, key)
