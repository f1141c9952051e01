"""From a square map, the scenes that photograph it: slanted strips cut into frames, each in its zone."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import shapely
import shapely.affinity
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from shapely.geometry.base import BaseGeometry

from coseis.simulate.ground import EAST_EPSG, EPSG, to_crs
from coseis.simulate.scenes import Season
from coseis.simulate.terrain import PIXEL_M
from coseis.types import PHASES, Phase

_PASSES: dict[tuple[Phase, Season], tuple[str, str]] = {
    ("pre", "summer"): ("2018-08-03T01:02:11Z", "2018-08-21T00:57:40Z"),
    ("pre", "leaf-off"): ("2018-04-18T01:00:32Z", "2018-04-25T00:56:05Z"),
    ("pre", "snow"): ("2018-02-11T00:55:48Z", "2018-02-27T01:01:19Z"),
    ("post", "summer"): ("2018-09-11T00:58:25Z", "2018-09-13T01:04:52Z"),
}
"""Neighbouring strips come from passes in turn."""
SLANT_DEG: dict[Phase, float] = {"pre": 11.0, "post": 12.5}
"""Strips follow the orbit, which crosses the grid's north at this angle; seams of the phases differ."""
STRIP_M, FRAME_M = 7500.0, 12_000.0
"""Greatest width of a strip and length of a scene; also what bounds the memory."""
OVERLAP = 0.12
LEAST_SCENE_PX = 64.0
"""A corner of the map smaller than this many pixels gets no scene of its own: the overlap covers it."""
PAD_PX = 10
"""Ground around a scene from which errors of place may bring something in."""


class Frame(NamedTuple):
    """One scene to be taken."""

    phase: Phase
    strip: int
    number: int
    """Along the strip."""
    footprint: shapely.Polygon
    """In pixels of the map."""
    season: Season

    @property
    def window(self) -> tuple[slice, slice]:
        """Pixels of the map that the footprint touches."""
        left, top, right, bottom = self.footprint.bounds
        return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))

    def padded(self, size_px: int) -> tuple[slice, slice]:
        """The window and what lies around it on the map."""
        rows, columns = (slice(max(s.start - PAD_PX, 0), min(s.stop + PAD_PX, size_px)) for s in self.window)
        return rows, columns

    @property
    def taken(self) -> datetime:
        """When, in UTC."""
        start = datetime.fromisoformat(_PASSES[self.phase, self.season][self.strip % 2])
        return start + timedelta(seconds=3 * self.number, minutes=2 * (self.strip // 2))

    @property
    def item_id(self) -> str:
        """Planet's form, date_time_satellite."""
        satellite = 0x1000 + 37 * self.strip + 5 * PHASES.index(self.phase)
        return f"{self.taken:%Y%m%d_%H%M%S}_{satellite:04x}"

    def grid(self, map_grid: GeoBox) -> tuple[GeoBox, BaseGeometry]:
        """The scene's pixels and its outline, in the zone in which its centre lies, as Planet delivers."""
        outline = to_crs(self.footprint, map_grid)
        if zone_of(outline) == EPSG:
            return map_grid[self.window], outline
        dense = shapely.segmentize(outline, 20 * PIXEL_M)
        moved = Geometry(dense, map_grid.crs).to_crs(f"EPSG:{EAST_EPSG}").geom
        return enclosing_grid(moved, EAST_EPSG), moved


def plan_frames(size_px: int, pre_season: Season) -> list[Frame]:
    """All scenes of an event, first those before it."""
    seasons: dict[Phase, Season] = {"pre": pre_season, "post": "summer"}
    return [
        Frame(phase, *f, seasons[phase]) for phase in PHASES for f in _footprints(size_px, SLANT_DEG[phase])
    ]


def zone_of(outline: shapely.Polygon) -> int:
    """EPSG code of the UTM zone of the centre of an outline, which is in metres of the western zone."""
    centre = Geometry(outline.centroid, f"EPSG:{EPSG}").to_crs("EPSG:4326").coords[0]
    return EPSG if centre[0] < 144.0 else EAST_EPSG


def enclosing_grid(outline: BaseGeometry, epsg: int) -> GeoBox:
    """Pixels of 3 m around an outline in metres, on whole multiples of 3 m."""
    left, bottom, right, top = shapely.bounds(outline) / PIXEL_M
    corner = Affine(PIXEL_M, 0.0, np.floor(left) * PIXEL_M, 0.0, -PIXEL_M, np.ceil(top) * PIXEL_M)
    shape = (int(np.ceil(top) - np.floor(bottom)), int(np.ceil(right) - np.floor(left)))
    return GeoBox(shape, corner, f"EPSG:{epsg}")


def _footprints(size_px: int, slant_deg: float) -> Iterator[tuple[int, int, shapely.Polygon]]:
    """Strip, frame and outline in pixels of the scenes that together cover the map, at least two strips."""
    box = shapely.box(0, 0, size_px, size_px)
    centre = (size_px / 2, size_px / 2)
    reach = shapely.affinity.rotate(box, slant_deg, origin=centre).bounds
    extent = reach[2] - reach[0]
    strips = max(2, int(np.ceil(extent * PIXEL_M / STRIP_M)))
    frames = max(1, int(np.ceil(extent * PIXEL_M / FRAME_M)))
    half_x, half_y = (0.5 * (1 + OVERLAP) * extent / n for n in (strips, frames))
    for strip in range(strips):
        for frame in range(frames):
            x, y = reach[0] + (strip + 0.5) * extent / strips, reach[1] + (frame + 0.5) * extent / frames
            upright = shapely.box(x - half_x, y - half_y, x + half_x, y + half_y)
            seen = shapely.intersection(shapely.affinity.rotate(upright, -slant_deg, origin=centre), box)
            if isinstance(seen, shapely.Polygon) and seen.area >= LEAST_SCENE_PX:
                yield strip, frame, seen
