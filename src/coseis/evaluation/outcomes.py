"""Prediction and labels in, the true, false and missed areas out: as codes, as polygons, as a GeoPackage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
from odc.geo.geobox import GeoBox
from pyogrio.errors import DataSourceError

from coseis.errors import InputRefusedError
from coseis.types import CODE_SCALE
from coseis.vectorize import BlockPieces, merge_blocks, trace_block

BoolArray = npt.NDArray[np.bool_]
UintArray = npt.NDArray[np.uint8]


class Outcome(IntEnum):
    """What became of a pixel."""

    BACKGROUND = 0
    """Neither landslide nor predicted."""
    TRUE = 1
    """Landslide, and predicted."""
    FALSE = 2
    """Predicted, but no landslide."""
    MISSED = 3
    """Landslide, but not predicted."""
    NOT_COUNTED = 4
    """Not predicted at all, or without known truth."""


LAYERS = {"true": Outcome.TRUE, "false": Outcome.FALSE, "missed": Outcome.MISSED}
"""Layers of the GeoPackage."""


def outcome_of(predicted: BoolArray, landslide: BoolArray, counted: BoolArray) -> UintArray:
    """Outcome of each pixel, uint8 (y, x), from masks of the same shape."""
    codes = np.array([[Outcome.BACKGROUND, Outcome.MISSED], [Outcome.FALSE, Outcome.TRUE]], dtype=np.uint8)
    outcome = codes[predicted.astype(np.uint8), landslide.astype(np.uint8)]
    return np.where(counted, outcome, np.uint8(Outcome.NOT_COUNTED))


def trace_mask(mask: BoolArray, *, origin: tuple[int, int] = (0, 0)) -> BlockPieces:
    """Traces what is True in one block, bool (y, x), to be joined by `vectorize.merge_blocks`."""
    codes = np.where(mask, np.uint8(CODE_SCALE), np.uint8(0))
    return trace_block(codes, None, {}, origin=origin, threshold_code=CODE_SCALE)


def trace_outcome(outcome: UintArray, *, origin: tuple[int, int] = (0, 0)) -> dict[str, BlockPieces]:
    """Pieces of one block by layer, from its outcomes, uint8 (y, x)."""
    return {name: trace_mask(outcome == code, origin=origin) for name, code in LAYERS.items()}


def merge_outcomes(
    pieces: Sequence[Mapping[str, BlockPieces]], geobox: GeoBox
) -> dict[str, gpd.GeoDataFrame]:
    """Polygons by layer with id, area_m2, pixel_count and geometry, whole across block borders.

    Args:
        pieces: From `trace_outcome`, a block each.
        geobox: Grid of the whole map, projected, in metres.

    Raises:
        UsageError: The grid has no EPSG code, or is not in metres.
    """
    columns = ["id", "area_m2", "pixel_count", "geometry"]
    return {name: merge_blocks([block[name] for block in pieces], geobox)[columns] for name in LAYERS}


def write_outcomes(maps: Sequence[Mapping[str, gpd.GeoDataFrame]], path: str | Path) -> None:
    """Writes the layers true, false and missed of one or more maps as a GeoPackage, replacing it.

    Args:
        maps: From `merge_outcomes`; of several zones, those of the first map's CRS are kept as they are and
            the others are projected to it.
        path: The file.

    Raises:
        InputRefusedError: It cannot be written.
    """
    path = Path(path)
    try:
        path.unlink(missing_ok=True)
        for name in LAYERS:
            crs = maps[0][name].crs
            frames = [layers[name].to_crs(crs) for layers in maps]
            gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), crs=crs).to_file(
                path, layer=name, driver="GPKG", geometry_type="Polygon"
            )
    except (OSError, DataSourceError) as error:
        raise InputRefusedError(f"{path} cannot be written ({error})") from error
