"""A catalog that changes, and the least that maps it: no cluster, no TensorFlow, nothing published."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import obstore
import zarr

import fake_network
from coseis.card import Normalization
from coseis.config import ClusterConfig, MapConfig, ModelConfig, OutputConfig, SearchConfig
from coseis.model import CARD_NAME, WEIGHTS_NAME
from coseis.objects import get_object, open_store
from coseis.plan import ITEMS, Plan, read_done, read_plan
from coseis.store import create_cube, open_arrays
from coseis.task import map_chunk
from coseis.types import SCENE_FILL, Scene
from coseis.update import settle_plan
from making import EVENT_TIME, UTM, a_card, area_of, grid, texture, write_scene

GRID = grid(130, 400)
AOI_INSET_PX = 15
CHUNK_PX = 112
COLUMNS: dict[str, slice] = {
    "pre": slice(0, 400),
    "post": slice(0, 400),
    "pre-west": slice(0, 100),
    "post-west": slice(0, 100),
    "post-east": slice(280, 400),
}
"""Of each item's scene, on the grid."""
BARE = ("pre-west", 1)
"""Item and file that is not green, so that a map does without it."""


class Item(NamedTuple):
    """How a catalog has an item."""

    cloud: float = 0.0
    """Percent: what is clearer comes first."""
    file: int = 0
    """Which file lies under its address."""


class Event:
    """A folder with files in two versions, and a catalog that is written anew for each search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scenes: dict[tuple[str, int], Scene] = {}
        for number, (name, columns) in enumerate(COLUMNS.items()):
            for version in range(2):
                grey = texture((130, columns.stop - columns.start), seed=10 * version + number)
                grey = grey // 2 + 1  # bright and colourless would be snow
                pixels = np.stack([np.roll(grey, 7 * band, axis=0) for band in range(3)])
                if (name, version) == BARE:
                    pixels[1] //= 2
                pixels[:, 20 * number : 20 * number + 15] = 0
                phase = name.split("-")[0]
                path = folder / f"{name}-{version}.tif"
                affine = GRID[:, columns].affine
                self.scenes[name, version] = write_scene(path, pixels, affine, phase=phase)
        (folder / "aoi.geojson").write_text(json.dumps(area_of(GRID, inset_px=AOI_INSET_PX)))
        weights = b"no network is built from these"
        digest = hashlib.sha256(weights).hexdigest()
        card = a_card(weights_sha256=digest, normalization=Normalization(kind="scene"))
        (folder / "model").mkdir()
        (folder / "model" / CARD_NAME).write_text(card.model_dump_json())
        (folder / "model" / WEIGHTS_NAME).write_bytes(weights)

    def publish(self, items: Mapping[str, Item]) -> None:
        """Writes the catalog, and puts the files where it says."""
        features = []
        for name, item in items.items():
            scene = self.scenes[name, item.file]
            (self.folder / f"{name}.tif").write_bytes(Path(scene.sources[0].href).read_bytes())
            assets = {"a": {"href": f"./{name}.tif", "type": "image/tiff", "pl:asset_type": "ortho_visual"}}
            features.append(
                {
                    "type": "Feature",
                    "id": name,
                    "collection": "PSScene",
                    "geometry": scene.geometry,
                    "properties": {"datetime": scene.start.isoformat(), "eo:cloud_cover": item.cloud},
                    "assets": assets,
                }
            )
        catalog = {"type": "FeatureCollection", "features": features}
        (self.folder / "items.json").write_text(json.dumps(catalog))

    def config(
        self, out: str | Path, *, cluster: Mapping[str, Any] | None = None, search: Any = None, **output: Any
    ) -> MapConfig:
        """A run of what is published."""
        fields = {
            "catalog": str(self.folder / "items.json"),
            "aoi": str(self.folder / "aoi.geojson"),
            "event_time": EVENT_TIME.isoformat(),
        }
        return MapConfig(
            search=SearchConfig(**(fields | (search or {}))),
            model=ModelConfig(model=str(self.folder / "model"), core=CHUNK_PX, precision="float32"),
            output=OutputConfig(**{"out": str(out), "resolution": 3.0, "crs": UTM, "min_area": 0} | output),
            cluster=ClusterConfig(**(cluster or {})),
        )


def settle(config: MapConfig, align: Callable[[Plan], Any] = lambda plan: (plan, [])) -> Plan:
    """The plan that a run of this configuration goes on with."""
    store = open_store(config.output.out)
    return settle_plan(config, store, fake_network.probe_device, check=lambda plan: None, align=align)


def map_missing(config: MapConfig) -> set[str]:
    """Maps what is missing of a run, and returns the names of the chunks that were computed."""
    plan, store, out = settle(config), open_store(config.output.out), config.output.out
    done = read_done(plan, store)
    if not done:
        create_cube(
            out, plan.geobox, phases=plan.identity.phases, classes=plan.card.classes,
            core_px=CHUNK_PX, chunk_px=plan.chunk_px,
        )  # fmt: skip
    missing = [chunk for chunk in plan.chunks(plan.chunk_px) if chunk.name not in done]
    for chunk in missing:
        map_chunk(plan.for_area(plan.area(chunk)), chunk, out)
    return {chunk.name for chunk in missing}


def plan_of(out: str | Path) -> Plan:
    return read_plan(get_object(open_store(str(out)), ITEMS) or b"", str(out))


def codes_of(out: str | Path) -> dict[str, np.ndarray]:
    """The decoded cube of a run, its scenes by the names of their items."""
    plan = plan_of(out)
    arrays = {name: np.asarray(array[:]) for name, array in open_arrays(str(out), plan.geobox).items()}
    names = {scene.index: scene.item_id for scene in (*plan.retired, *plan.found.scenes)}
    names[SCENE_FILL] = ""
    arrays["scene"] = np.vectorize(names.__getitem__, otypes=["U16"])(arrays["scene"])
    return arrays


def assert_same_codes(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], chunks: Any = None
) -> None:
    """Of all the grid, or of some chunks."""
    for name in one:
        for place in [...] if chunks is None else [(..., *chunk.slices) for chunk in chunks]:
            np.testing.assert_array_equal(one[name][place], other[name][place], err_msg=name)


class KilledError(Exception):
    """The process ends here."""


class Kill:
    """Ends the process before its n-th change of the output, counted from 0; none if there are fewer."""

    def __init__(self, patch: Any) -> None:
        self.left: float = np.inf
        real_set = zarr.storage.ObjectStore.set

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(*arguments: Any, **options: Any) -> Any:
                self.count()
                return real(*arguments, **options)

            return change

        async def set_one(*arguments: Any, **options: Any) -> None:
            self.count()
            await real_set(*arguments, **options)

        patch.setattr(obstore, "put", counted(obstore.put))
        patch.setattr(obstore, "delete", counted(obstore.delete))
        patch.setattr(zarr.storage.ObjectStore, "set", set_one)

    def count(self) -> None:
        if self.left <= 0:
            raise KilledError
        self.left -= 1

    def after(self, changes: float, config: MapConfig) -> bool:
        """Maps what is missing; whether it was killed on the way."""
        self.left = changes
        try:
            map_missing(config)
        except KilledError:
            return True
        finally:
            self.left = np.inf
        return False
