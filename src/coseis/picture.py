"""The scene in colour, the polygons and the status go in; a picture of the result comes out.

Matplotlib's objects only, no pyplot: workers and notebooks keep their own figures and backend.
"""

from dataclasses import dataclass, replace

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from coseis.canvas import png_of, webp_of
from coseis.types import CONTEXT_INCOMPLETE, Status

WIDTH_PX = 1600
MAX_HEIGHT_PX = 2400
DPI = 160
PANEL_WIDTH_PX = 832
PANEL_MAX_HEIGHT_PX = 960
"""Of `draw_panel`, at DPI; it is drawn with twice as many, for paper."""
MISSING_GREY = 200
"""Display value of a pixel without reflectance."""
ATTRIBUTION_LETTERS = 300
"""A line of the picture; item.json has all of it."""
OUTLINE = "#ffe11a"
"""Yellow stands out from brown scars, green forest and grey roads alike."""
EDGE = withStroke(linewidth=2, foreground="black", alpha=0.55)
"""Dark rim that keeps light lines and letters readable on a bright scene."""
STATUS_COLOURS = {
    Status.CLOUD: "#e9eef2",
    Status.SHADOW: "#3d4a63",
    Status.HAZE: "#c5cfd6",
    Status.LIGHT_HAZE: "#dfe6ea",
    Status.UNUSABLE: "#6b6b6b",
    Status.SNOW: "#a9d6f5",
    Status.NODATA: "#8a8a8a",
    Status.NOT_ACQUIRED: "#8a8a8a",
    Status.OUTSIDE_AOI: "#d9d5cc",
    Status.FAILED: "#c0392b",
    Status.NOT_COMPUTED: "#8a8a8a",
}
"""Colour under the hatching, for every status but observed."""


@dataclass(frozen=True)
class Frame:
    """Sizes of the picture in pixels: panels side by side under a title, over a line of notes."""

    columns: int
    panel_width: int
    panel_height: int
    left: int = 96
    right: int = 28
    top: int = 84
    bottom: int = 104
    gap: int = 20

    @property
    def width(self) -> int:
        """Width of the whole picture, px."""
        return self.left + self.right + self.columns * self.panel_width + (self.columns - 1) * self.gap

    @property
    def height(self) -> int:
        """Height of the whole picture, px."""
        return self.top + self.bottom + self.panel_height

    def panel(self, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel as fractions of the picture."""
        left = self.left + column * (self.panel_width + self.gap)
        return (
            left / self.width,
            self.bottom / self.height,
            self.panel_width / self.width,
            self.panel_height / self.height,
        )


def draw_map(
    rgb: NDArray[np.uint8],
    polygons: gpd.GeoDataFrame,
    *,
    geobox: GeoBox,
    title: str,
    pre_rgb: NDArray[np.uint8] | None = None,
    status: NDArray[np.uint8] | None = None,
    attribution: str = "",
) -> bytes:
    """Draw the landslides over the scene after the event, with the scene before it beside, if there is one.

    Args:
        rgb: uint8 (y, x, 3), the scene after the event as shown to people, see `stretch_rgb`.
        polygons: the inventory; its `area_m2` gives the legend's sum.
        geobox: grid of `rgb`, in metres; decimated for a large region (1600 px are shown).
        title: over the picture.
        pre_rgb: uint8 (y, x, 3), the scene before the event on the same grid.
        status: uint8 (y, x), status codes on the same grid; what is not observed is coloured and hatched.
        attribution: who made the scenes, under the picture.

    Returns:
        A PNG, 1600 px wide; narrower for a grid more than 1.4 times as high as wide.

    Raises:
        ValueError: if an array is not of the grid's shape, or the grid has no CRS.
    """
    for name, array, bands in (("rgb", rgb, (3,)), ("pre_rgb", pre_rgb, (3,)), ("status", status, ())):
        if array is not None and array.shape != (*geobox.shape, *bands):
            raise ValueError(
                f"{name} has shape {array.shape}; expected {(*geobox.shape, *bands)}, the grid's"
            )
    scenes = [rgb] if pre_rgb is None else [pre_rgb, rgb]
    frame = _frame(geobox, Frame(len(scenes), panel_width=0, panel_height=0), WIDTH_PX, MAX_HEIGHT_PX)
    figure = Figure(figsize=(frame.width / DPI, frame.height / DPI), dpi=DPI, facecolor="white")
    for column, scene in enumerate(scenes):
        axes = figure.add_axes(frame.panel(column))
        _draw_scene(axes, scene, geobox)
        _draw_graticule(axes, geobox, label_latitudes=column == 0)
        if len(scenes) == 2:
            _draw_label(axes, 0.015, 0.975, ("before", "after")[column], size=9, ha="left", va="top")
    entries: list[Artist] = [
        Line2D([], [], color=OUTLINE, lw=2.5, path_effects=[EDGE], label=_count(polygons))
    ]
    if status is not None:
        entries += _draw_status(axes, status, geobox)
    _draw_outlines(axes, polygons, geobox, frame)
    _draw_scale_bar(axes, geobox)
    _draw_north(axes, geobox)
    _write_margins(figure, frame, title, entries, attribution)
    return png_of(figure)


def draw_panel(
    rgb: NDArray[np.uint8],
    polygons: gpd.GeoDataFrame,
    *,
    geobox: GeoBox,
    status: NDArray[np.uint8],
    numbered: gpd.GeoSeries,
) -> bytes:
    """Draw the landslides over the scene after the event alone, for a page whose words say the rest.

    Letters are twice as large beside the scene as those of `draw_map`: it fills half a page.

    Args:
        rgb: as for `draw_map`.
        polygons: as for `draw_map`.
        geobox: as for `draw_map`.
        status: as for `draw_map`.
        numbered: points in any CRS that get the numbers 1, 2, ...

    Returns:
        A WebP, 1664 px wide; narrower for a grid higher than wide.
    """
    sides = Frame(1, panel_width=0, panel_height=0, left=36, right=4, top=4, bottom=28)
    frame = _frame(geobox, sides, PANEL_WIDTH_PX, PANEL_MAX_HEIGHT_PX)
    figure = Figure(figsize=(frame.width / DPI, frame.height / DPI), dpi=2 * DPI, facecolor="white")
    axes = figure.add_axes(frame.panel(0))
    _draw_scene(axes, rgb, geobox)
    _draw_graticule(axes, geobox, label_latitudes=True)
    _draw_status(axes, status, geobox)
    _draw_outlines(axes, polygons, geobox, frame)
    _draw_scale_bar(axes, geobox)
    _draw_north(axes, geobox)
    _draw_numbers(axes, numbered, geobox)
    return webp_of(figure)


def stretch_rgb(reflectance: NDArray[np.floating], *, gamma: float = 0.8) -> NDArray[np.uint8]:
    """Turn reflectance into a picture for people: dark to bright as in the scene, colours kept, brightened.

    Each band starts at its own 2nd percentile, which takes off the haze; all share the greatest range up to a
    98th percentile, so that bare soil stays orange.

    For the picture only: the limits are the picture's own, so two pictures cannot be compared by value.

    Args:
        reflectance: float (3, y, x), red, green and blue in any linear unit; NaN is missing.
        gamma: exponent of the stretched value; below 1 brightens.

    Returns:
        uint8 (y, x, 3), 0-255; missing pixels are light grey.

    Raises:
        ValueError: if there are not three bands.
    """
    if reflectance.ndim != 3 or len(reflectance) != 3:
        raise ValueError(f"got an array of shape {reflectance.shape}; expected (3, y, x): red, green, blue")
    valid = np.isfinite(reflectance).all(axis=0)
    picture = np.full((*valid.shape, 3), MISSING_GREY, dtype=np.uint8)
    if not valid.any():
        return picture
    pixels = reflectance[:, valid]
    low, high = np.percentile(pixels, [2, 98], axis=1)[..., None]
    picture[valid] = stretch_between(pixels, low, float((high - low).max()), gamma=gamma).T
    return picture


def stretch_between(
    pixels: NDArray[np.floating], low: NDArray[np.floating], span: float, *, gamma: float
) -> NDArray[np.uint8]:
    """Values as shown to people.

    Args:
        pixels: float (band, n) in any linear unit, no NaN.
        low: float (band, 1), what is shown as black.
        span: `low + span` is shown as white.
        gamma: exponent of the stretched value; below 1 brightens.

    Returns:
        uint8 (band, n), 0-255.
    """
    stretched = (pixels - low) / max(span, np.finfo(np.float32).tiny)
    shown: NDArray[np.uint8] = np.rint(255 * np.clip(stretched, 0, 1) ** gamma).astype(np.uint8)
    return shown


def _frame(geobox: GeoBox, sides: Frame, width_px: int, max_height_px: int) -> Frame:
    """Panels as wide as the picture allows, narrower where they would be too high."""
    panel_width = (width_px - sides.width) // sides.columns
    panel_height = panel_width * geobox.height / geobox.width
    shrink = min(1.0, (max_height_px - sides.height) / panel_height)
    return replace(
        sides,
        panel_width=max(1, round(panel_width * shrink)),
        panel_height=max(1, round(panel_height * shrink)),
    )


def _draw_scene(axes: Axes, rgb: NDArray[np.uint8], geobox: GeoBox) -> None:
    """The scene in map coordinates, with a thin rim."""
    axes.imshow(rgb, extent=_extent(geobox), aspect="auto", zorder=0)
    axes.set_autoscale_on(False)
    for side in axes.spines.values():
        side.set(color="0.25", linewidth=0.8)


def _draw_graticule(axes: Axes, geobox: GeoBox, *, label_latitudes: bool) -> None:
    """Decimal degrees, as --aoi takes them, where meridians and parallels cross the lower and left rim."""
    left, right, bottom, top = _extent(geobox)
    to_degrees = _crs(geobox).transformer_to_crs("EPSG:4326")
    x, y = np.linspace(left, right, 65), np.linspace(bottom, top, 65)
    longitudes = to_degrees(x, np.full(65, bottom))[0]
    latitudes = to_degrees(np.full(65, left), y)[1]
    for axis, places, degrees, letters in (
        (axes.xaxis, x, longitudes, "WE"),
        (axes.yaxis, y, latitudes, "SN"),
    ):
        ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(degrees[0], degrees[-1])
        ticks = ticks[(ticks >= degrees[0]) & (ticks <= degrees[-1])]
        labels = [f"{abs(tick):.6g}°{letters[int(tick > 0)]}" for tick in ticks]
        axis.set_ticks(np.interp(ticks, degrees, places), labels)
    axes.tick_params(labelsize=6.5, length=3, width=0.8, color="0.25", labelcolor="0.25", pad=2)
    axes.tick_params(axis="y", labelleft=label_latitudes, labelrotation=90)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("center")


def _draw_status(axes: Axes, status: NDArray[np.uint8], geobox: GeoBox) -> list[Artist]:
    """Stripes over every pixel that is not observed; returns the legend's entries with their shares."""
    codes = status & ~np.uint8(CONTEXT_INCOMPLETE)
    rows, columns = np.ogrid[: geobox.height, : geobox.width]
    stripe_px = max(1, round(geobox.width / 160))
    opacity = np.where((rows + columns) // stripe_px % 2, 0.85, 0.45)
    overlay = np.zeros((*codes.shape, 4), dtype=np.float32)
    entries: list[Artist] = []
    for code, colour in STATUS_COLOURS.items():
        here = codes == code
        if not here.any():
            continue
        overlay[here, :3] = to_rgb(colour)
        overlay[here, 3] = opacity[here]
        label = f"{code.name.lower().replace('_', ' ').replace('aoi', 'AOI')} {here.mean():.1%}"
        entries.append(Patch(facecolor=colour, edgecolor="0.35", hatch="////", linewidth=0.6, label=label))
    axes.imshow(overlay, extent=_extent(geobox), aspect="auto", interpolation="nearest", zorder=1)
    return entries


def _draw_outlines(axes: Axes, polygons: gpd.GeoDataFrame, geobox: GeoBox, frame: Frame) -> None:
    """Every ring, holes too; thinner where polygons are only a few screen pixels wide."""
    if polygons.empty:
        return
    rings = shapely.get_rings(polygons.to_crs(str(_crs(geobox))).geometry.to_numpy())
    left, right, _, _ = _extent(geobox)
    polygon_px = np.sqrt(polygons["area_m2"].median()) * frame.panel_width / (right - left)
    line_px = float(np.clip(polygon_px / 10, 0.7, 2.2))
    corners = [shapely.get_coordinates(ring) for ring in rings]
    axes.add_collection(
        LineCollection(corners, colors=OUTLINE, linewidths=line_px * 72 / DPI, zorder=2), False
    )


def _draw_scale_bar(axes: Axes, geobox: GeoBox) -> None:
    """A bar of a round length, about a fifth of the panel, lower right."""
    left, right, bottom, top = _extent(geobox)
    limit_m = (right - left) / 4
    power = 10 ** np.floor(np.log10(limit_m))
    length_m = power * max(step for step in (1, 2, 5) if step * power <= limit_m)
    end, height = right - 0.03 * (right - left), bottom + 0.045 * (top - bottom)
    axes.plot(
        [end - length_m, end], [height] * 2, color="white", lw=3, path_effects=[EDGE], solid_capstyle="butt"
    )
    text = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    middle = (end - length_m / 2 - left) / (right - left)
    _draw_label(axes, middle, 0.06, text, size=8, ha="center", va="bottom")


def _draw_north(axes: Axes, geobox: GeoBox) -> None:
    """An arrow to true north, which is not quite up away from the zone's central meridian."""
    left, right, bottom, top = _extent(geobox)
    size, x, y = (
        0.09 * min(right - left, top - bottom),
        right - 0.04 * (right - left),
        top - 0.16 * (top - bottom),
    )
    longitude, latitude = _crs(geobox).transformer_to_crs("EPSG:4326")(x, y)
    from_degrees = CRS("EPSG:4326").transformer_to_crs(_crs(geobox))
    step = np.subtract(from_degrees(longitude, latitude + 1e-3), (x, y))
    dx, dy = step / np.hypot(*step) * size
    arrow = {"arrowstyle": "-|>", "color": "white", "lw": 2.2, "mutation_scale": 16, "path_effects": [EDGE]}
    axes.annotate("", (x + dx, y + dy), (x, y), arrowprops=arrow)
    axes.text(x, y, "N", color="white", size=9, weight="bold", ha="center", va="top", path_effects=[EDGE])


def _draw_numbers(axes: Axes, points: gpd.GeoSeries, geobox: GeoBox) -> None:
    """Numbers in discs beside their points, the first on top of those that it overlaps."""
    places = shapely.get_coordinates(points.to_crs(str(_crs(geobox))).to_numpy())
    for number, place in reversed(list(enumerate(places, 1))):
        axes.annotate(
            str(number),
            place,
            xytext=(7, 7),
            textcoords="offset points",
            size=6.5,
            weight="bold",
            ha="center",
            va="center_baseline",
            bbox={
                "boxstyle": "circle,pad=0.22",
                "facecolor": "white",
                "edgecolor": "black",
                "linewidth": 0.7,
            },
            arrowprops={"arrowstyle": "-", "color": "white", "lw": 1, "path_effects": [EDGE], "shrinkA": 0},
            annotation_clip=False,
            zorder=4 + 1 / number,
        )


def _draw_label(axes: Axes, x: float, y: float, text: str, *, size: float, ha: str, va: str) -> None:
    """White letters at a place given as fractions of the panel."""
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        color="white",
        size=size,
        weight="bold",
        ha=ha,
        va=va,
        path_effects=[EDGE],
    )


def _write_margins(figure: Figure, frame: Frame, title: str, entries: list[Artist], attribution: str) -> None:
    """Title above; legend and attribution below."""
    left = frame.left / frame.width
    figure.text(
        left, 1 - frame.top / 2 / frame.height, title, size=13, weight="bold", va="center", parse_math=False
    )
    figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(left, 36 / frame.height),
        borderaxespad=0,
        borderpad=0,
        ncols=len(entries),
        frameon=False,
        fontsize=8 if len(entries) <= 6 else 6,
    )
    # Names come from catalogs: between two dollars matplotlib would read TeX, and raise where it is none.
    shown = (
        attribution if len(attribution) <= ATTRIBUTION_LETTERS else f"{attribution[:ATTRIBUTION_LETTERS]}..."
    )
    figure.text(left, 10 / frame.height, shown, size=6, color="0.35", va="bottom", parse_math=False)


def _crs(geobox: GeoBox) -> CRS:
    """The grid's CRS; without one there is no scale and no north."""
    if geobox.crs is None:
        raise ValueError("the grid has no CRS; expected a UTM zone")
    return geobox.crs


def _extent(geobox: GeoBox) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the grid in its CRS: the order that matplotlib wants."""
    box = geobox.boundingbox
    return box.left, box.right, box.bottom, box.top


def _count(polygons: gpd.GeoDataFrame) -> str:
    """Legend text: how many landslides, and how much area."""
    area_km2 = polygons["area_m2"].sum() / 1e6
    return f"{len(polygons):,} landslide{'s' * (len(polygons) != 1)}, {area_km2:,.2f} km²"
