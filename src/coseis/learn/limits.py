"""Labels and where somebody looked for landslides in, labels that are unknown everywhere else out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt

from coseis.grid import pixels_inside
from coseis.labels import Labels
from coseis.types import LABEL_IGNORE

UintArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LimitedLabels:
    """Labels of a grid that are known in a part of it only; can be sent to workers.

    Ten polygons that somebody drew in a hurry say nothing of the slopes beside them: as background those
    would teach the network to miss landslides.
    """

    labels: Labels
    area: dict[str, Any] | None = None
    """GeoJSON in longitude and latitude that was searched for landslides; None: all of it was."""
    reach_px: float | None = None
    """Labels are known within this distance of a landslide pixel; None: at any distance."""

    def mask(self, geobox: GeoBox) -> UintArray:
        """uint8 (y, x): the labels, and LABEL_IGNORE where nobody looked."""
        mask = self.labels.mask(geobox)
        if self.area is not None:
            whole = Window(0, 0, geobox.shape.x, geobox.shape.y)
            mask[~pixels_inside(self.area, geobox, whole)] = LABEL_IGNORE
        if self.reach_px is not None:
            mask[~self._near(geobox, self.reach_px)] = LABEL_IGNORE
        return mask

    def _near(self, geobox: GeoBox, reach_px: float) -> npt.NDArray[np.bool_]:
        """Which pixels lie within reach of a landslide, also of one beyond the window."""
        margin_px = int(np.ceil(reach_px))
        around = self.labels.mask(geobox.pad(margin_px))
        landslide = (around > 0) & (around != LABEL_IGNORE)
        if not landslide.any():
            return np.zeros(geobox.shape, dtype=bool)
        near: npt.NDArray[np.bool_] = distance_transform_edt(~landslide) <= reach_px
        return near[margin_px : near.shape[0] - margin_px, margin_px : near.shape[1] - margin_px]
