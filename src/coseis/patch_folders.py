"""A folder of labelled images in, everything that is counted of a model's map of them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox, geobox_union_conservative

from coseis.card import LATTICE_PX, ModelCard
from coseis.errors import UsageError
from coseis.evaluation import Panel, assess_patch, counted_pixels, merge_outcomes, outcome_of, trace_outcome
from coseis.evaluation.results import Assessed
from coseis.features import normalize_intensity
from coseis.labels import open_labels
from coseis.model import Model
from coseis.predict import predict_features, ready_network, to_codes
from coseis.training.patches import IMAGE_DRIVER, Patch, as_intensity, scene_percentiles
from coseis.types import CODE_FILL, CODE_SCALE, LABEL_IGNORE, least_code
from coseis.windows import HALO_PX, MAX_CORE_PX

UintArray = npt.NDArray[np.uint8]
MASK_SUFFIX = "_mask"
"""N.tif has its labels in N_mask.tif."""
SAMPLE_PX = 2048
"""Longest side of the image from which a scene's percentiles are taken."""


@dataclass(frozen=True)
class _Image:
    """An 8-bit image on its grid."""

    name: str
    path: Path
    pixels: UintArray
    """uint8 (y, x, band), all bands 0 where missing."""
    geobox: GeoBox

    @property
    def pixel_m2(self) -> float:
        """Area of a pixel, m2."""
        return abs(self.geobox.affine.a * self.geobox.affine.e)


def is_patch_folder(folder: str | Path) -> bool:
    """Whether a place is a folder of images that are no run's: there is a TIFF, but no items.json."""
    folder = Path(folder)
    return folder.is_dir() and not (folder / "items.json").exists() and any(folder.glob("*.tif"))


def assess_folder(
    folder: str | Path,
    labels: str | Path | None = None,
    *,
    model: Model,
    scene: str | Path | None = None,
    threshold: float | None = None,
    frame_px: int = 3,
) -> Assessed:
    """Predicts a folder of images and compares the maps with their labels.

    Args:
        folder: Holds 8-bit images N.tif in the model's bands, projected, in metres.
        labels: Polygons or a raster for all of them; default: each image's own N_mask.tif.
        model: From `load_model`.
        scene: A larger image of the same mosaic, whose percentiles normalize them; default: all images
            together, which is right for one sensor and date.
        threshold: Least probability that counts as landslide; default: the model card's.
        frame_px: Width of a frame of each image that is not counted: annotators thin out there.

    Raises:
        UsageError: An image cannot be used by the model or has no labels, or the labels lie elsewhere.
    """
    images = _read_images(Path(folder), model.card)
    samples = [_read_image(Path(scene), model.card, most_px=SAMPLE_PX)] if scene else images
    pixels = [as_intensity(image.pixels).reshape(-1, len(model.card.bands)) for image in samples]
    percentiles = scene_percentiles(np.concatenate(pixels))
    threshold = model.card.threshold if threshold is None else threshold
    truths = _read_truths(images, labels)
    parts, panels, outcomes = {}, {}, []
    for image, truth in zip(images, truths, strict=True):
        codes = _predict_codes(image, percentiles, model)
        parts[image.name] = assess_patch(
            codes, truth, threshold=threshold, pixel_m2=image.pixel_m2, frame_px=frame_px
        )
        outcome = outcome_of(
            (codes >= least_code(threshold)) & (codes <= CODE_SCALE),
            (truth != 0) & (truth != LABEL_IGNORE),
            counted_pixels(codes, truth, frame_px=frame_px),
        )
        panels[image.name] = _panel(image, outcome, parts[image.name].pixels.scores(threshold).f1)
        outcomes.append(merge_outcomes([trace_outcome(outcome)], image.geobox))
    return Assessed(str(folder), threshold, images[0].pixel_m2, parts, panels, outcomes)


def _read_images(folder: Path, card: ModelCard) -> list[_Image]:
    paths = sorted(path for path in folder.glob("*.tif") if not path.stem.endswith(MASK_SUFFIX))
    if not paths:
        raise UsageError(f"{folder} holds no image; expected N.tif, with labels in N{MASK_SUFFIX}.tif")
    images = [_read_image(path, card) for path in paths]
    for image in images:
        if not np.isclose(image.pixel_m2, images[0].pixel_m2):
            raise UsageError(
                f"{image.path} has pixels of {image.pixel_m2:g} m2, {images[0].path} of "
                f"{images[0].pixel_m2:g} m2; evaluate folders of one pixel size each"
            )
    return images


def _read_image(path: Path, card: ModelCard, *, most_px: int | None = None) -> _Image:
    """An image in the model's bands; decimated to at most so many pixels a side if asked for."""
    try:
        with rasterio.open(path, driver=IMAGE_DRIVER) as source:
            if source.count != len(card.bands) or source.dtypes[0] != "uint8" or card.phases != ("post",):
                raise UsageError(
                    f"{path} has {source.count} bands of {source.dtypes[0]}; model {card.name} expects 8-bit "
                    f"{', '.join(card.bands)} of {' and '.join(card.phases)}; patches hold one phase, post"
                )
            if source.crs is None or not source.crs.is_projected:
                raise UsageError(f"{path} has no projected CRS, so areas are not known; store it with one")
            shape = tuple(min(size, most_px or size) for size in source.shape)
            pixels = source.read(out_shape=(source.count, *shape))
            valid = source.dataset_mask(out_shape=shape) > 0
            geobox = GeoBox(source.shape, source.transform, source.crs.to_string())
    except rasterio.errors.RasterioIOError as error:
        raise UsageError(f"{path} is not a readable raster: {error}") from error
    return _Image(path.stem, path, np.where(valid, pixels, np.uint8(0)).transpose(1, 2, 0), geobox)


def _predict_codes(image: _Image, percentiles: npt.NDArray[np.float32], model: Model) -> UintArray:
    """Codes of the first class, uint8 (y, x), by the code that makes maps, in float32 on any machine.

    Beyond its border an image is mirrored: it is cut out of a scene that goes on.
    """
    height, width = image.geobox.shape
    halo_px = HALO_PX[model.card.padding]
    core_px = min(MAX_CORE_PX, -(-max(height, width) // LATTICE_PX) * LATTICE_PX)
    side_px = -(-max(height, width) // core_px) * core_px
    patch = Patch(image.pixels, np.zeros((height, width), np.uint8), image.name, percentiles)
    square = patch.square(-halo_px, -halo_px, side_px + 2 * halo_px)
    wanted = np.zeros((side_px, side_px), dtype=bool)
    wanted[:height, :width] = True
    probability = predict_features(
        normalize_intensity(square.intensity, square.percentiles, model.card),
        ready_network(model, precision="float32", core_px=core_px, batch=1),
        model.card,
        core_px=core_px,
        wanted=wanted,
    )
    codes = to_codes(probability[0, :height, :width])
    codes[~image.pixels.any(axis=-1)] = CODE_FILL
    return codes


def _read_truths(images: list[_Image], labels: str | Path | None) -> list[UintArray]:
    """Labels of each image, uint8 (y, x): from one file for all, or from each image's own."""
    if labels is None:
        paths = [image.path.with_name(f"{image.name}{MASK_SUFFIX}.tif") for image in images]
        for image, path in zip(images, paths, strict=True):
            if not path.is_file():
                raise UsageError(f"{image.path} has no labels; expected {path}, or LABELS for all images")
        return [
            open_labels(path, image.geobox).mask(image.geobox)
            for image, path in zip(images, paths, strict=True)
        ]
    geoboxes = [image.geobox for image in images]
    try:
        opened = open_labels(labels, geobox_union_conservative(geoboxes))
    except ValueError as error:
        raise UsageError(
            f"the images of {images[0].path.parent} lie on several grids, which no one file of labels fits; "
            f"give each image N.tif its own N{MASK_SUFFIX}.tif"
        ) from error
    return [opened.mask(geobox) for geobox in geoboxes]


def _panel(image: _Image, outcome: UintArray, f1: float | None) -> Panel:
    rgb = image.pixels if image.pixels.shape[-1] == 3 else image.pixels[..., :1].repeat(3, axis=-1)
    return Panel(f"{image.name}: F1 {'undefined' if f1 is None else f'{f1:.3f}'}", rgb, outcome)
