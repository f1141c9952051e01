"""Commands about an inventory that is there: drawn anew, written for other programs, scored, counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from coseis.config import ExposureConfig, OutputConfig, TerrainConfig, load_stage
from coseis.options import given_options, setting_options
from coseis.summaries import conclude_run, progress_console, show_scores, show_statistics

FORMAT_NAMES = ("geopackage", "flatgeobuf", "shapefile", "kmz", "csv")
"""Keys of `formats.FORMATS`, here so that --help needs no GDAL."""


@click.command()
@click.argument("run")
@click.option("--threshold", required=True, help="card, otsu, isodata, or a probability from 0 to 1.")
@click.option("--min-area", metavar="NUMBER", help="Least area of a polygon, m2. Default: as it was.")
@setting_options("terrain", "exposure")
def vectorize(run: str, threshold: str, min_area: str | None, **terrain: Any) -> None:
    """Draw the polygons of RUN anew with another threshold.

    No inference: all that was published from the polygons is written anew.

    \b
    Example:
      coseis vectorize OUT --threshold 0.56
    """
    output = load_stage(
        OutputConfig, given_options({"out": run, "threshold": threshold, "min_area": min_area})
    )
    from coseis.pipeline import vectorize_run

    layers = {name: terrain.pop(name) for name in ExposureConfig.model_fields}
    report = vectorize_run(
        output,
        terrain=load_stage(TerrainConfig, given_options(terrain)),
        exposure=load_stage(ExposureConfig, given_options(layers)),
        console=progress_console(),
    )
    conclude_run(report, report.config.output)


@click.command()
@click.argument("run")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMAT_NAMES),
    default=FORMAT_NAMES,
    help="May be repeated; default: all.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder for the files. Default: RUN.",
)
def export(run: str, formats: Sequence[str], out: Path | None) -> None:
    """Write the inventory of RUN for other programs.

    GeoPackage, FlatGeobuf, Shapefile (names of ten letters, see docs/formats.md), KMZ for Google Earth, and
    a table of centroids.

    \b
    Example:
      coseis export OUT --format geopackage --format kmz
    """
    from coseis.formats import export_run

    for path in export_run(run, formats, out):
        click.echo(f"wrote {path}")


@click.command()
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="edits.gpkg",
    show_default=True,
    help="GeoPackage to write for a mapper; one that exists is not touched.",
)
@click.option(
    "--merge",
    multiple=True,
    type=click.Path(path_type=Path),
    help="GeoPackage that a mapper filled in; may be repeated.",
)
@click.option("--editor", metavar="NAME", help="Mapper of the rows of --merge that name none.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="GeoPackage to write for coseis train: what mappers settled; and the area where, NAME-area.gpkg.",
)
def edit(run: str, out: Path, merge: Sequence[Path], editor: str | None, labels: Path | None) -> None:
    """Have mappers judge RUN, and merge what they say.

    Writes a GeoPackage for QGIS in which each polygon can be accepted, rejected or redrawn, and others added.
    With --merge the run's inventory, tiles, picture, statistics and report are written anew; no inference.
    Verdicts stay with the run: vectorize, finish and map --update lay them over what they draw. With --labels
    they become labels.

    \b
    Example:
      coseis edit OUT --out edits.gpkg
      coseis edit OUT --merge edits.gpkg --editor "A. Mapper"
      coseis edit OUT --labels labels.gpkg
    """
    from coseis.editing import merge_edits, start_edits, write_labels

    if merge:
        report, new = merge_edits(run, merge, editor=editor, console=progress_console())
        click.echo(f"{new} new {'statement' if new == 1 else 'statements'} merged")
        conclude_run(report, report.config.output.model_copy(update={"out": run}))
    if labels:
        made, area = write_labels(run, labels)
        click.echo(f"wrote {made} and {area}: coseis train --labels {made} --labelled-area {area}")
    if not (merge or labels):
        click.echo(
            f"wrote {start_edits(run, out)}: fill in verdict in QGIS, then coseis edit {run} --merge {out}"
        )


@click.command()
@click.argument("run")
@click.argument("labels", type=click.Path(path_type=Path), required=False)
@click.option(
    "--model", default=None, help="Folder or ZIP file of the model that predicts a folder of patches."
)
@click.option("--scene", default=None, help="Image that the patches were cut from: normalizes them.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Default: the run's, or the model card's.")
@click.option(
    "--with-old", is_flag=True, help="Count landslides of RUN that were there before the event too."
)
@click.option("--frame-px", default=3, show_default=True, help="Frame of a patch that is not counted, px.")
@click.option("--prevalence", default=0.05, show_default=True, help="Landslide share to restate scores for.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for all scores, figure and polygons.")
@click.option("--json", "as_json", is_flag=True, help="Print all scores as JSON.")
def evaluate(
    run: str,
    labels: Path | None,
    threshold: float | None,
    with_old: bool,
    prevalence: float,
    out: Path | None,
    as_json: bool,
    **patches: Any,
) -> None:
    """Score RUN against LABELS, or a folder of patches against theirs.

    RUN is compared where it was observed, also in polygons below its least area; polygons that were there
    before the event count as no landslide. LABELS are polygons (any
    vector file) or a raster in which 0 is background and one other number landslide. In place of RUN a
    folder of images N.tif is predicted first; their labels are LABELS, or N_mask.tif each.

    \b
    Example:
      coseis evaluate OUT truth/landslides.gpkg --out scores
      coseis evaluate patches/ --model my-model
    """
    from coseis.evaluation.results import report_assessed, write_report
    from coseis.patch_folders import assess_folder, is_patch_folder

    if is_patch_folder(run):
        from coseis.model import load_model

        model = load_model(patches.pop("model"))
        assessed = assess_folder(run, labels, model=model, threshold=threshold, **patches)
    else:
        from coseis.assess import assess_run

        assessed = assess_run(run, labels, threshold=threshold, with_old=with_old)
    report = report_assessed(assessed, prevalence=prevalence)
    if as_json:
        click.echo(report.model_dump_json(exclude={"counts"}))
    else:
        show_scores(report)
    for path in write_report(report, assessed, out) if out else ():
        click.echo(f"wrote {path}", err=as_json)


@click.command()
@click.argument("inventory")
@click.option("--reference", help="Another inventory of the event, a run or a file: how far they agree.")
@click.option("--area", help="Polygons of what a file has mapped: gives density, and tells what is cut.")
@click.option(
    "--completeness", type=click.FloatRange(min=0), metavar="M2", help="From this area on nothing is missing."
)
@click.option("--sensitivity", is_flag=True, help="Draw a run anew at thresholds 0.1 lower and higher too.")
@click.option(
    "--split", is_flag=True, help="Cut outlines of a run that are likely several landslides'; show both."
)
@click.option(
    "--simulations",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Simulated inventories that test the law; 0: no test.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for statistics, figure and density.")
def statistics(
    inventory: str, completeness: float | None, simulations: int, out: Path | None, **options: Any
) -> None:
    """Count the landslides of INVENTORY by size, and fit their law.

    INVENTORY is a run, or a file of polygons: GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoParquet. The
    inverse gamma law is fitted by maximum likelihood to what is at least M2 large. Without --completeness
    that is a run's least area of a polygon, or of a file the area that 1 % are smaller than.

    \b
    Example:
      coseis statistics OUT --completeness 400 --out sizes
      coseis statistics landslides.gpkg --area mapped.gpkg --reference OUT
    """
    from coseis.describe import describe_inventory

    found = describe_inventory(
        inventory,
        completeness_m2=completeness,
        simulated=simulations,
        out=out,
        console=progress_console(),
        **options,
    )
    show_statistics(found)
    if out:
        more = ", landslides_split.parquet" if options["split"] else ""
        click.echo(f"wrote {out}/statistics.json, statistics.png{more}")
