"""A run's plan and its polygons in, pictures out: the scenes as people see them, and the outlines."""

import dataclasses

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from coseis.cube import read_window
from coseis.errors import InputRefusedError, UnreachableError
from coseis.picture import draw_map, draw_panel, stretch_rgb
from coseis.plan import Plan
from coseis.types import Phase, Status, seen_pixels

PICTURE_PX = 1600
"""Longest side of the scene in the picture."""
PLAIN_GROUND = 70
"""Grey level in place of a scene that may not be shown."""


def draw_run(
    plan: Plan,
    polygons: gpd.GeoDataFrame,
    threshold: float,
    *,
    numbered: gpd.GeoSeries,
    show_scenes: bool = True,
) -> tuple[bytes, bytes]:
    """Draws the polygons over the scenes, which are read once.

    Args:
        plan: Of the run.
        polygons: Landslides of the event.
        threshold: Which they were drawn at.
        numbered: Points that get the numbers 1, 2, ... in the second picture.
        show_scenes: Whether their pixels may be seen; if not, there is plain ground in their place.

    Returns:
        A PNG, beside the scene before the event, where there is one, with a title; and a WebP of the scene
        after the event alone, for a page.
    """
    plan = plan.on_one_grid()
    factor = max(1, -(-max(plan.identity.shape) // PICTURE_PX))
    geobox = plan.geobox.zoom_out(factor)
    colours = ("red", "green", "blue")
    bands = colours if set(colours) <= set(plan.card.bands) else plan.card.bands[:1]
    recipe = dataclasses.replace(plan.recipe(), geobox=geobox, bands=bands)
    whole = Window(0, 0, geobox.shape.x, geobox.shape.y)
    try:
        cube = read_window(recipe, whole)
    except (InputRefusedError, UnreachableError):
        # Its chunks are listed as failed; the polygons of the others are worth a picture all the same.
        cube = read_window(dataclasses.replace(recipe, scenes=()), whole)
    rgb: dict[Phase, NDArray[np.uint8]] = {
        phase: stretch_rgb(image if len(bands) == 3 else image.repeat(3, axis=0))
        for phase, image in zip(recipe.phases, cube.image, strict=True)
    }
    if not show_scenes:
        rgb = {"post": np.full_like(rgb["post"], PLAIN_GROUND)}
    post = recipe.phases.index("post")
    of_post = cube.status[post], cube.scene[post]
    # Only what was not used is hatched: shadow or haze that a user lets pass is part of the map.
    status = np.where(seen_pixels(*of_post), Status.OBSERVED, of_post[0])
    event_time = plan.found.event.time
    whole_picture = draw_map(
        rgb["post"],
        polygons,
        geobox=geobox,
        title=f"Landslides of {event_time:%Y-%m-%d %H:%M} UTC, {plan.card.name} >= {threshold:g}",
        pre_rgb=rgb.get("pre"),
        status=status,
        attribution="; ".join(credits_of(plan)),
    )
    panel = draw_panel(rgb["post"], polygons, geobox=geobox, status=status, numbered=numbered)
    return whole_picture, panel


def credits_of(plan: Plan) -> tuple[str, ...]:
    """Who must be named with the map, each once, in the order of the scenes."""
    return tuple(dict.fromkeys(scene.attribution for scene in plan.found.scenes if scene.attribution))
