"""A scene or a run of the synthetic event in, where the colour rule fails and what the model does there out.

    python benchmarks/rule_failures.py DATA/iburi/planetscope/scene_post.tif --out scene.jpg [--model FOLDER]
    python benchmarks/rule_failures.py --demo demo

The rule calls a pixel landslide where red / (green + 1) > 1.05 on 8-bit values. On a scene without labels it
draws the largest places where rule and model disagree, to be looked at. On the synthetic event (the folder of
`make demo`) it prints, for each kind of ground, the share that is called landslide.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.warp
import rasterio.windows
from matplotlib.figure import Figure
from scipy import ndimage

from coseis.cube import read_window
from coseis.features import stretch_intensity
from coseis.model import Model, load_model
from coseis.plan import Plan, read_plan
from coseis.simulate.landcover import Cover
from coseis.training.measure import predict_patch
from coseis.training.patches import Patch, as_intensity, scene_percentiles

BoolArray = npt.NDArray[np.bool_]
RULE_RATIO = 1.05
CROP_PX = 160
SHOWN = 8
"""Places of each kind of disagreement."""
SMOOTH_PX = 9
"""Side of the square in which disagreement is summed: single pixels at outlines are no place."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the options say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scene", type=Path, nargs="?", help="8-bit red, green, blue")
    parser.add_argument("--demo", type=Path, help="folder of `make demo`")
    parser.add_argument("--model", type=Path, help="default: the shipped one")
    parser.add_argument("--out", type=Path, help="picture of the scene's disagreements")
    options = parser.parse_args(arguments)
    if options.demo:
        print(json.dumps(shares_by_cover(options.demo), indent=1))
    if options.scene:
        if options.out is None:
            parser.error("--out is missing: where shall the picture go?")
        draw_disagreements(options.scene, load_model(options.model), options.out)


def shares_by_cover(demo: Path) -> dict[str, dict[str, float]]:
    """Of each kind of ground in the synthetic event: its share, and what rule and run call landslide."""
    plan = read_plan((demo / "run" / "items.json").read_bytes(), str(demo / "run"))
    with rasterio.open(demo / "run" / "probability.tif") as file:
        probability = file.read(file.descriptions.index("landslide post") + 1, masked=True)
    threshold = json.loads((demo / "run" / "run.json").read_text())["threshold"]["value"]
    cover = _on_grid(demo / "event" / "truth" / "classes.tif", plan)
    called = {"rule": _rule(_intensity(plan)), "model": probability.filled(0) >= threshold * 200}
    seen = ~np.ma.getmaskarray(probability) & (cover > 0)
    shares = {}
    for kind in Cover:
        here = seen & (cover == kind)
        if here.any():
            row = {name: round(float(mask[here].mean()), 4) for name, mask in called.items()}
            shares[kind.name.lower()] = {"share": round(float(here.sum() / seen.sum()), 4)} | row
    return shares


def draw_disagreements(scene: Path, model: Model, out: Path) -> None:
    """Draws the largest places that only the rule, and that only the model, calls landslide."""
    with rasterio.open(scene) as file:
        image = np.where(file.dataset_mask() > 0, file.read(), np.uint8(0)).transpose(1, 2, 0)
    patch = Patch(image, np.zeros(image.shape[:2], np.uint8), "scene", scene_percentiles(as_intensity(image)))
    seen = ~np.isnan(patch.intensity).any(axis=-1)
    mapped = seen & (predict_patch(model.network(), patch, card=model.card) >= model.card.threshold)
    ruled = _rule(patch.intensity)
    figure = Figure(figsize=(2 * SHOWN, 9), layout="constrained")
    axes = figure.subplots(4, SHOWN)
    for panel in axes.flat:
        panel.set_axis_off()
    for row, (title, only) in enumerate((("rule only", ruled & ~mapped), ("model only", mapped & ~ruled))):
        for column, (y, x) in enumerate(_largest(only)):
            crop = np.s_[y : y + CROP_PX, x : x + CROP_PX]
            plain, marked = axes[2 * row][column], axes[2 * row + 1][column]
            for panel in (plain, marked):
                panel.imshow(np.clip(image[crop].astype(np.float32) / 170, 0, 1))
            marked.contour(ruled[crop], [0.5], colors="yellow", linewidths=0.7)
            marked.contour(mapped[crop], [0.5], colors="cyan", linewidths=0.7)
            plain.set_title(f"{title}, {y}, {x}", fontsize=8)
    figure.suptitle("yellow: red / (green + 1) > 1.05; cyan: the model")
    figure.savefig(out, dpi=90)
    agreed = float((ruled & mapped).sum())
    print(
        f"rule {ruled[seen].mean():.4f}, model {mapped[seen].mean():.4f} of the scene; "
        f"both {agreed / ruled.sum():.3f} of the rule's, {agreed / mapped.sum():.3f} of the model's"
    )


def _rule(intensity: npt.NDArray[np.float32]) -> BoolArray:
    """Bool (y, x) from intensity (y, x, band), red and green first."""
    with np.errstate(invalid="ignore"):
        return np.asarray(255 * intensity[..., 0] > RULE_RATIO * (255 * intensity[..., 1] + 1))


def _largest(disagreement: BoolArray) -> list[tuple[int, int]]:
    """Upper left corners of the crops around the largest connected places, none twice."""
    solid = ndimage.uniform_filter(disagreement.astype(np.float32), SMOOTH_PX) > 0.5
    objects, count = ndimage.label(solid)
    sizes = ndimage.sum_labels(solid, objects, np.arange(1, count + 1))
    corners: list[tuple[int, int]] = []
    for number in np.argsort(sizes)[::-1] + 1:
        centre = ndimage.center_of_mass(objects == number)
        y, x = (
            int(np.clip(place - CROP_PX / 2, 0, size - CROP_PX))
            for place, size in zip(centre, disagreement.shape, strict=True)
        )
        if all(max(abs(y - top), abs(x - left)) >= CROP_PX / 2 for top, left in corners):
            corners.append((y, x))
        if len(corners) == SHOWN:
            break
    return corners


def _intensity(plan: Plan) -> npt.NDArray[np.float32]:
    """float32 (y, x, band) of the post phase over the run's whole grid."""
    height, width = plan.identity.shape
    cube = read_window(plan.recipe(), rasterio.windows.Window(0, 0, width, height))
    post = cube.image[plan.identity.phases.index("post")]
    kind = next(scene.kind for scene in plan.found.scenes if scene.phase == "post")
    return stretch_intensity(post, plan.card.inputs[kind]).transpose(1, 2, 0)


def _on_grid(path: Path, plan: Plan) -> npt.NDArray[np.uint8]:
    """A raster of classes on the run's grid, nearest neighbour."""
    classes = np.zeros(plan.identity.shape, np.uint8)
    with rasterio.open(path) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1), classes, dst_transform=plan.geobox.affine, dst_crs=str(plan.geobox.crs)
        )
    return classes


if __name__ == "__main__":
    main()
