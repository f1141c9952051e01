"""Settings of labelled regions and patches in, the sources that a training draws from out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from coseis.card import ModelCard
from coseis.errors import UsageError
from coseis.event import Found, read_area
from coseis.grid import native_resolution_m, output_geobox
from coseis.labels import LabelConfig, Labels, open_labels
from coseis.learn.config import PatchesConfig, RegionConfig
from coseis.learn.limits import LimitedLabels
from coseis.plan import find_scenes, inspect_scenes
from coseis.training.cubes import CubeSource, open_cube_source
from coseis.training.patches import (
    Patch,
    read_hrgldd,
    read_landslide4sense,
    read_tiles,
    scene_percentiles,
)

BLOCKS_ARRAY = "event_block"
"""What HR-GLDD's NPZ has and Landslide4Sense's has not."""


def find_region(region: RegionConfig, card: ModelCard) -> Found:
    """Searches and measures the scenes of a region, those of the phases that the network sees.

    Raises:
        UsageError, InputRefusedError, UnreachableError: as `find_scenes` and `inspect_scenes` say.
    """
    without_pre = region.allow_missing_pre or "pre" not in card.phases
    found = find_scenes(region.model_copy(update={"allow_missing_pre": without_pre}), card)
    # Headers are remote reads: none for a phase that nobody looks at.
    seen = tuple(scene for scene in found.scenes if scene.phase in card.phases)
    measured = inspect_scenes(found.model_copy(update={"scenes": seen}))
    return found.model_copy(update={"scenes": measured})


def open_region(region: RegionConfig, found: Found, card: ModelCard) -> CubeSource:
    """The scenes and labels of a region as a source of training; no pixel is read yet.

    Raises:
        UsageError: The labels, their classes or the scenes cannot be used.
    """
    resolution_m = region.resolution or native_resolution_m(found.scenes)
    geobox = output_geobox(found.event.aoi, resolution_m=resolution_m, crs=region.crs)
    labels: Labels = open_labels(region.labels, geobox, _label_config(region), ignore=region.ignore)
    if region.labelled_area or region.label_reach_m:
        reach_px = region.label_reach_m and region.label_reach_m / resolution_m
        labels = LimitedLabels(labels, _labelled_area(region), reach_px)
    group = region.group or f"event-{found.event.time:%Y-%m-%d}"
    return open_cube_source(found, geobox, labels, card, group=group, weight=region.weight)


def open_patches(patches: PatchesConfig) -> list[Patch]:
    """Labelled images as sources of training.

    Raises:
        UsageError: There are none, or they cannot be read.
    """
    opened = []
    for path in map(Path, patches.patches):
        if path.suffix.lower() == ".npz":
            opened += _read_archive(path, patches)
        elif path.is_dir():
            opened += _read_folder(path, patches)
        else:
            raise UsageError(
                f"patches {path} are neither a folder of images N.tif with N_mask.tif nor an NPZ"
            )
    return [dataclasses.replace(patch, weight=patches.weight) for patch in opened]


def _label_config(region: RegionConfig) -> LabelConfig:
    try:
        return LabelConfig(
            solid_px=region.solid_px,
            rule=region.label_rule,
            class_field=region.class_field,
            classes=region.classes,
            ignore_classes=region.ignore_classes,
        )
    except ValidationError as error:
        reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"labels {region.labels}: {reasons}") from error


def _labelled_area(region: RegionConfig) -> dict[str, object] | None:
    if region.labelled_area is None:
        return None
    try:
        return read_area(region.labelled_area)
    except UsageError as error:
        raise UsageError(f"labelled area: {error}") from error


def _read_archive(path: Path, patches: PatchesConfig) -> list[Patch]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            has_blocks = BLOCKS_ARRAY in arrays.files
    except (OSError, ValueError) as error:
        raise UsageError(f"patches {path} cannot be read as NPZ: {error}") from error
    return read_hrgldd(path, exclude=patches.exclude_blocks) if has_blocks else read_landslide4sense(path)


def _read_folder(path: Path, patches: PatchesConfig) -> list[Patch]:
    """Tiles with the percentiles of their scene, else with those of all tiles together."""
    some_tile = next((tile for tile in path.glob("*.tif") if not tile.stem.endswith("_mask")), path)
    scene = patches.scene or some_tile
    try:
        tiles = read_tiles(path, scene=scene, groups=patches.groups, frame_px=patches.frame_px)
    except ValueError as error:  # bands or sizes that do not belong together
        raise UsageError(f"tiles of {path} with the percentiles of {scene}: {error}") from error
    if patches.scene:
        return tiles
    pixels = [tile.intensity.reshape(-1, tile.channels) for tile in tiles]
    together = scene_percentiles(np.concatenate(pixels))
    return [dataclasses.replace(tile, percentiles=together) for tile in tiles]
