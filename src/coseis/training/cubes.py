"""Scenes of a catalog and labels in, a source of training squares over the whole region out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from coseis.card import ModelCard
from coseis.cube import Recipe, read_window
from coseis.errors import UsageError
from coseis.event import Found
from coseis.features import centre_and_spread, intensity_percentiles, stretch_intensity, stretch_of
from coseis.grid import footprint, scenes_touching
from coseis.labels import Labels
from coseis.training.sources import CELL_PX, Cells, FloatArray, Square, count_cells
from coseis.types import LABEL_IGNORE, SCENE_FILL, Phase, Scene, seen_pixels
from coseis.windows import chunk_grid

COUNT_PX = 64 * CELL_PX
"""Side of the blocks in which labels are counted: 4 MB of them at a time, whatever the region's size."""


@dataclass(frozen=True)
class CubeSource:
    """A labelled region of scenes: plain data and polygons, so that it can be sent to workers, which read."""

    recipe: Recipe
    """Grid, bands, phases, and the scenes of the whole region."""
    labels: Labels
    card: ModelCard
    """Stretches and normalization: what makes scenes alike."""
    group: str
    """What may only be on one side of a split: an event, a place."""
    weight: float = 1.0
    """How often it is drawn, relative to other sources of the same area."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid, px."""
        return self.recipe.geobox.shape.y, self.recipe.geobox.shape.x

    @property
    def channels(self) -> int:
        """Bands of all phases."""
        return len(self.recipe.bands) * len(self.recipe.phases)

    def cells(self) -> Cells:
        """Counts of labels where scenes of every phase have their footprints; no pixel of them is read.

        Clouds and holes within a footprint are not known before, and count like any other place.
        """
        return self._cells

    @cached_property
    def _cells(self) -> Cells:
        """Counted once: split, draws and identity of a training all ask."""
        known, landslide = (
            np.zeros([-(-size // CELL_PX) for size in self.shape], dtype=np.int64) for _ in range(2)
        )
        covered = _covered_area(self.recipe)
        for block in chunk_grid(self.shape, COUNT_PX):
            part = self._part(block.y0, block.x0, (block.height, block.width))
            classes = self.labels.mask(part)
            outside = geometry_mask([covered], classes.shape, part.affine)
            counts = count_cells(np.where(outside, np.uint8(LABEL_IGNORE), classes))
            y, x = block.y0 // CELL_PX, block.x0 // CELL_PX
            place = np.s_[y : y + counts.known.shape[0], x : x + counts.known.shape[1]]
            known[place], landslide[place] = counts.known, counts.landslide
        return Cells(known, landslide)

    def square(self, y: int, x: int, size_px: int) -> Square:
        """The square with its upper left corner at (y, x), which may lie partly outside of the grid.

        Where several scenes meet, all pixels are brought to the light of the one that covers most, so that
        its percentiles normalize them as `make_features` does by their own scenes.

        Returns:
            intensity float32 (y, x, channel), the bands of one phase before those of the next; NaN in all
            channels where any is missing. In [0, 1] for the scene that covers most, others may reach a
            little beyond. classes uint8 (y, x), LABEL_IGNORE where intensity is missing. percentiles
            float32 (3, channel) of that scene.

        Raises:
            InputRefusedError: A file cannot be read.
        """
        window = Window(x, y, size_px, size_px)
        scenes = scenes_touching(self.recipe.scenes, self.recipe.geobox, window)
        cube = read_window(dataclasses.replace(self.recipe, scenes=scenes), window)
        index = np.where(seen_pixels(cube.status, cube.scene), cube.scene, np.uint16(SCENE_FILL))
        parts = [
            self._in_one_light(bands, of_phase, phase)
            for phase, bands, of_phase in zip(self.recipe.phases, cube.image, index, strict=True)
        ]
        intensity = np.concatenate([part for part, _ in parts], axis=-1)
        missing = np.isnan(intensity).any(axis=-1)
        intensity[missing] = np.nan
        classes = self.labels.mask(self._part(y, x, (size_px, size_px)))
        return Square(
            intensity,
            np.where(missing, np.uint8(LABEL_IGNORE), classes),
            np.concatenate([percentiles for _, percentiles in parts], axis=-1),
        )

    def _part(self, y: int, x: int, shape: tuple[int, int]) -> GeoBox:
        grid = self.recipe.geobox
        return GeoBox(shape, grid.affine @ Affine.translation(x, y), grid.crs)

    def _in_one_light(
        self, bands: FloatArray, index: npt.NDArray[np.uint16], phase: Phase
    ) -> tuple[FloatArray, FloatArray]:
        """Intensity float32 (y, x, band) of one phase, and the percentiles (3, band) of its main scene.

        Args:
            bands: float32 (band, y, x), physical units.
            index: uint16 (y, x), index of each pixel's scene, SCENE_FILL where it is not observed.
            phase: Of the card's normalization.
        """
        scenes = {scene.index: scene for scene in self.recipe.scenes if scene.phase == phase}
        present, counts = np.unique(index[index != SCENE_FILL], return_counts=True)
        main = scenes[int(present[counts.argmax()])] if present.size else next(iter(scenes.values()))
        percentiles = intensity_percentiles(main, self.card)
        intensity = np.full((*index.shape, len(bands)), np.nan, dtype=np.float32)
        for number in present:
            scene, covered = scenes[int(number)], index == number
            values = stretch_intensity(bands[:, covered].T, self.card.inputs[scene.kind])
            if scene is not main and self.card.normalization.kind != "fixed":
                values = _relit(values, intensity_percentiles(scene, self.card), percentiles, self.card)
            intensity[covered] = values
        return intensity, percentiles


def open_cube_source(
    found: Found, geobox: GeoBox, labels: Labels, card: ModelCard, *, group: str, weight: float = 1.0
) -> CubeSource:
    """Makes a labelled region of scenes a source of training; nothing is read yet.

    Args:
        found: Scenes, with their statistics (see `reader.inspect_scene`), and the area of interest.
        geobox: The region's grid.
        labels: Of that grid, see `open_labels`.
        card: Of the model to be trained: its bands, phases, input kinds and normalization.
        group: What may only be on one side of a split: an event, a place.
        weight: How often it is drawn, relative to other sources of the same area.

    Raises:
        UsageError: The scenes lack a phase, a band or statistics, or are of a kind that the card refuses; or
            nowhere cover the area of interest.
    """
    whole = Window(0, 0, geobox.shape.x, geobox.shape.y)
    scenes = [scene for scene in scenes_touching(found.scenes, geobox, whole) if scene.phase in card.phases]
    for phase in card.phases:
        if not any(scene.phase == phase for scene in scenes):
            raise UsageError(
                f"no {phase} scene touches the grid of {group}, but model {card.name} sees "
                f"{' and '.join(card.phases)}; search more dates, or train a model of other phases"
            )
    for scene in scenes:
        _check_scene(scene, card)
    recipe = Recipe(geobox, card.bands, card.phases, tuple(scenes), found.event.aoi)
    if _covered_area(recipe).is_empty:
        raise UsageError(
            f"scenes of {' and '.join(card.phases)} nowhere cover the area of interest of {group} together"
        )
    return CubeSource(recipe, labels, card, group, weight)


def _check_scene(scene: Scene, card: ModelCard) -> None:
    stretch_of(scene, card)
    missing = [band for band in card.bands if band not in scene.bands]
    if missing:
        raise UsageError(
            f"scene {scene.item_id} has no {', '.join(missing)}, which model {card.name} sees; it has "
            f"{', '.join(scene.bands)}"
        )
    unmeasured = [band for band in card.bands if band not in (scene.statistics or {})]
    if unmeasured:
        raise UsageError(
            f"scene {scene.item_id} has no statistics of {', '.join(unmeasured)}; inspect its files first"
        )


def _covered_area(recipe: Recipe) -> BaseGeometry:
    """Where the area of interest lies in a footprint of every phase, in the grid's CRS."""
    area = footprint(recipe.aoi, recipe.geobox)
    for phase in recipe.phases:
        footprints = [
            footprint(scene.geometry, recipe.geobox) for scene in recipe.scenes if scene.phase == phase
        ]
        # Catalogs hold footprints that cross themselves, which GEOS refuses to join.
        area = area.intersection(shapely.union_all(shapely.make_valid(footprints)))
    return area


def _relit(values: FloatArray, given: FloatArray, wanted: FloatArray, card: ModelCard) -> FloatArray:
    """Intensity (pixel, band) of a scene with the given percentiles as in one with the wanted ones."""
    centre, spread = centre_and_spread(card, given)
    wanted_centre, wanted_spread = centre_and_spread(card, wanted)
    if card.normalization.kind == "colour":
        # One gain for all bands of a pixel: its brightness changes, its colour does not.
        brightness = values.mean(axis=-1, keepdims=True)
        lit = (brightness - centre.mean()) * (wanted_spread.mean() / spread.mean()) + wanted_centre.mean()
        return np.asarray(values * lit / np.maximum(brightness, np.float32(1e-3)), dtype=np.float32)
    relit: FloatArray = (values - centre) * (wanted_spread / spread) + wanted_centre
    return relit
