"""A size in, what a benchmark of the engine needs out: a region of scenes, a card, a network that is none."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter

from coseis.card import ModelCard, Normalization, Stretch
from coseis.config import MapConfig, ModelConfig, OutputConfig, SearchConfig
from coseis.model import CARD_NAME, WEIGHTS_NAME

EVENT_TIME = datetime(2018, 9, 5, 18, 8, tzinfo=UTC)
ORIGIN = (583_200.0, 4_737_072.0)
"""Upper left corner, EPSG:32654: whole multiples of 3 m, so that a scene lies on the output's grid."""
RESOLUTION_M = 3
TILE_PX = 1024
BLOCK_PX = 512


def make_region(
    folder: Path, shape: int | tuple[int, int], *, phases: tuple[str, ...] = ("pre", "post")
) -> Path:
    """A catalog of one scene a phase, 8-bit red, green and blue at 3 m, tiled and with overviews.

    The same rough texture is repeated over and over: what a scene shows matters to no engine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    geobox = region_grid(shape)
    features = []
    for number, phase in enumerate(phases):
        path = folder / f"{phase}.tif"
        _write_scene(path, geobox, seed=number)
        taken = EVENT_TIME + timedelta(days=10 if phase == "post" else -10)
        features.append(
            {
                "type": "Feature",
                "id": phase,
                "collection": "PSScene",
                "geometry": geobox.extent.to_crs("EPSG:4326").json,
                "properties": {"datetime": taken.isoformat()},
                "assets": {
                    "a": {"href": f"./{path.name}", "type": "image/tiff", "pl:asset_type": "ortho_visual"}
                },
            }
        )
    catalog = folder / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return catalog


def region_grid(shape: int | tuple[int, int]) -> GeoBox:
    """The grid of a region: (height, width), or the side of a square, px."""
    affine = Affine.translation(*ORIGIN) @ Affine.scale(RESOLUTION_M, -RESOLUTION_M)
    return GeoBox((shape, shape) if isinstance(shape, int) else shape, affine, "EPSG:32654")


def region_area(shape: int | tuple[int, int]) -> dict[str, Any]:
    """Its area, half a metre inside, as GeoJSON in degrees: the grid of a run is the scene's own.

    With a corner every kilometre, since an edge that is straight in metres is bent in degrees.
    """
    area: dict[str, Any] = region_grid(shape).extent.buffer(-0.5).to_crs("EPSG:4326", resolution=1000).json
    return area


def map_config(catalog: Path, area: Path, out: Path, **model: Any) -> MapConfig:
    """Of a run over a region, with the settings of its model."""
    return MapConfig(
        search=SearchConfig(
            catalog=str(catalog), aoi=str(area), event_time=EVENT_TIME.isoformat(), allow_missing_pre=True
        ),
        model=ModelConfig(**{"precision": "float32"} | model),
        output=OutputConfig(out=str(out)),
    )


def make_card(folder: Path) -> Path:
    """A model whose weights nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = b"no network is built from these"
    card = ModelCard(
        name="stand-in",
        bands=("red", "green", "blue"),
        inputs={"display": Stretch(low=0, high=255)},
        # By no statistics of the scene: a larger one, whose overview is coarser, would have more landslides.
        normalization=Normalization(kind="fixed", mean=(0.0,) * 3, std=(1.0,) * 3),
        resolution_m=(2.5, 6),
        padding="same",
        base_filters=16,
        halo_px=96,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    (folder / CARD_NAME).write_text(card.model_dump_json())
    (folder / WEIGHTS_NAME).write_bytes(weights)
    return folder


def install_network(mpx_per_s: float = 0.0) -> None:
    """Replaces the network of this process by one that marks bright pixels, at a given rate (0: at once).

    For `client.run`. It sleeps as one that waits for its GPU does, and computes next to nothing.
    """
    import coseis.backends
    import coseis.predict
    import coseis.task

    def network(windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if mpx_per_s:
            time.sleep(windows[..., 0].size / mpx_per_s / 1e6)
        return (windows[..., :1] > 0.8).astype(np.float32)

    changes: Any = {
        "probe_device": lambda: ("cpu", "float32"),
        "ready_network": lambda *_, **__: network,
    }
    for module in (coseis.backends, coseis.predict, coseis.task):
        for name, value in changes.items():
            setattr(module, name, value)


def _write_scene(path: Path, geobox: GeoBox, *, seed: int) -> None:
    rough = np.random.default_rng(seed).random((3, TILE_PX, TILE_PX), np.float32)
    smooth = gaussian_filter(rough, (0, 6, 6), mode="wrap") + 0.02 * rough
    low, high = smooth.min(), smooth.max()
    tile = (1 + 254 * (smooth - low) / (high - low)).astype(np.uint8)
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0, "tiled": True, "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX, "compress": "deflate", "photometric": "RGB", "num_threads": "all_cpus",
        "bigtiff": "if_safer", "height": geobox.shape.y, "width": geobox.shape.x,
    }  # fmt: skip
    with rasterio.open(path, "w", crs=str(geobox.crs), transform=geobox.affine, **profile) as file:
        for top in range(0, geobox.shape.y, TILE_PX):
            rows = min(TILE_PX, geobox.shape.y - top)
            strip = np.tile(tile[:, :rows], (1, 1, -(-geobox.shape.x // TILE_PX)))[..., : geobox.shape.x]
            file.write(strip, window=rasterio.windows.Window(0, top, geobox.shape.x, rows))
        file.build_overviews([8, 16], rasterio.enums.Resampling.nearest)
