"""The command line: words in, one of the pipeline's functions called, an exit code and one clear line out.

Nothing heavy is imported before a command runs: `coseis --help` loads neither TensorFlow, GDAL nor Dask.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from coseis import __version__
from coseis.addresses import public_form
from coseis.config import ClusterConfig, OutputConfig, SearchConfig, TerrainConfig, load_config, load_stage
from coseis.errors import CoseisError, IncompleteError, InputRefusedError, UnreachableError
from coseis.learn.config import LearnConfig, load_learn_config
from coseis.options import FlowGroup, StagedCommand, given_options, setting_options
from coseis.stopping import REASON, Stopped, obeying_sigterm, set_grace
from coseis.summaries import show_estimate, show_scores, show_statistics, show_training, show_truth

if TYPE_CHECKING:
    from coseis.report import FailedChunk, RunReport

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""
FORMAT_NAMES = ("geopackage", "flatgeobuf", "shapefile", "kmz", "csv")
"""Keys of `formats.FORMATS`, here so that --help needs no GDAL."""
MESSAGE_LETTERS = 3000
"""Longest message; what is left out is its middle, for a message ends with what to do."""
LISTED_FAILURES = 10
"""Failed chunks that are named on the terminal; all are in run.json."""


def main() -> None:
    """Entry point: every error that a user can cause becomes one line on stderr and its exit code."""
    try:
        with obeying_sigterm():
            cli.main(prog_name="coseis", standalone_mode=False)
    except Stopped:
        _end(REASON, UnreachableError.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _end("interrupted", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help_hint = f"; see {context.command_path} --help" if context else ""
        _end(error.format_message().rstrip(".") + help_hint, error.exit_code)
    except CoseisError as error:
        _end(str(error), error.exit_code)


def _end(message: str, exit_code: int) -> NoReturn:
    click.echo(f"coseis: {_one_line(public_form(message))}", err=True)
    raise SystemExit(exit_code)


def _one_line(text: str) -> str:
    """Without line breaks and terminal codes, and cut: catalogs and files are quoted in messages."""
    line = " ".join(text.split())
    if len(line) > MESSAGE_LETTERS:
        line = f"{line[: MESSAGE_LETTERS // 2]} ... {line[-MESSAGE_LETTERS // 2 :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _progress_console() -> Console:
    """Where progress is drawn. A log gets none: rich would draw the bars once, at the end, over the error."""
    return Console(stderr=True, quiet=not sys.stderr.isatty())


@click.group(
    cls=FlowGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 3 done, but chunks failed; 2 wrong option, configuration, area or model; "
    "42 catalog, asset or output unusable; 75 something did not answer, or SIGTERM came: run again; "
    "130 interrupted.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Map the landslides that an earthquake set off, over the whole affected region.

    \b
    Begin with an event that is made on this machine, offline:
      coseis demo OUT
    """


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size-km", default=6.0, show_default=True, help="Side of the square area, km.")
def demo(out: Path, size_km: float) -> None:
    """Simulate an event, map it and score the map. Offline, no licence, about two minutes.

    Everything is written to OUT: the event under event/, its map under run/.

    \b
    Example:
      coseis demo first-map
    """
    from coseis.demo import run_demo

    report = run_demo(out, size_km=size_km, console=_progress_console())
    show_truth(report.truth or {})
    _conclude(report, report.config.output)


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size-km", default=6.0, show_default=True, help="Side of the square area, km.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another event.")
@click.option(
    "--preset",
    type=click.Choice(["iburi", "steep"]),
    default="iburi",
    show_default=True,
    help="Terrain: low hills as in Iburi, or steep mountains.",
)
@click.option("--misfit-px", default=1.5, show_default=True, help="How far scenes lie off, pixels (sigma).")
@click.option(
    "--pre-season",
    type=click.Choice(["summer", "leaf-off", "snow"]),
    default="summer",
    show_default=True,
    help="Of the scenes before the event.",
)
@click.option("--zones", default=1, show_default=True, help="2: on the border of two UTM zones.")
def simulate(out: Path, size_km: float, seed: int, **options: Any) -> None:
    """Make a synthetic event with its exact truth.

    OUT gets a STAC catalog of Planet-like scenes before and after, and truth/.

    \b
    Example:
      coseis simulate event --size-km 6 --seed 7
    """
    from coseis.simulate import simulate_event

    event = simulate_event(out, size_km=size_km, seed=seed, **options)
    click.echo(f"{event.landslide_count} landslides on {100 * event.landslide_share:.1f} % of the area")
    click.echo(f"catalog {event.catalog}, event time {event.event_time.isoformat()}, area {event.aoi_path}")


@cli.command()
@setting_options("search")
@click.option("--model", default=None, help="Folder or ZIP file of a model; its bands are searched for.")
@click.option("--out", type=click.Path(path_type=Path), help="Write what was found to this file, as JSON.")
def search(model: str | None, out: Path | None, **options: Any) -> None:
    """Show which scenes would be used, and what they cover.

    \b
    Example:
      coseis search --catalog catalog.json --event-time 2018-09-05T18:08:00Z \\
        --aoi area.geojson --out items.json
    """
    settings = load_stage(SearchConfig, given_options(options))
    from coseis.model import load_model
    from coseis.plan import find_scenes

    found = find_scenes(settings, load_model(model).card)
    rows = found.summary()
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    for scene in found.scenes:
        cloud = "cloud cover unknown" if scene.cloud_cover is None else f"cloud {scene.cloud_cover:g} %"
        level = "  top of the atmosphere" if scene.level == "toa" else ""
        when = f"{scene.start:%Y-%m-%d %H:%M}Z"
        click.echo(_one_line(f"{scene.phase:4} {scene.item_id}  {when}  {cloud}{level}"))
    click.echo(f"assets lie on: {', '.join(found.hosts)}")
    for refused in found.refused:
        click.echo(_one_line(f"refused {refused.item_id}: {refused.reason}"))
    if out:
        try:
            out.write_text(found.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            raise InputRefusedError(f"{out} cannot be written ({error.strerror})") from error


@cli.command("map", cls=StagedCommand)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@setting_options("search", "model", "output", "cluster", "terrain", "coregistration")
@click.option("--dry-run", is_flag=True, help="Say what the run would do, need and take; write nothing.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="Of a worker: --dry-run says the cost.")
def map_command(config: Path | None, *, dry_run: bool, price_per_hour: float | None, **options: Any) -> None:
    """Map an event: search, predict, draw polygons, publish.

    Settings come from options, from CONFIG (a YAML file), or from both; options win. Lists are separated by
    commas, or the option is repeated.

    \b
    Example:
      coseis map --catalog https://example.org/stac --collection PSScene \\
        --event-time 2018-09-05T18:08:00Z --aoi 141.84,42.63,142.14,42.89 \\
        --out s3://maps/iburi

    \b
    The same as CONFIG; the headings below are its sections:
      search:
        catalog: https://example.org/stac
        collection: PSScene
        event_time: 2018-09-05T18:08:00Z
        aoi: 141.84,42.63,142.14,42.89
      output:
        out: s3://maps/iburi
    """
    settings = load_config(config, given_options(options))
    set_grace(settings.cluster.grace_s)
    from coseis.pipeline import estimate_event, map_event, map_part

    if dry_run:
        show_estimate(estimate_event(settings, price_per_hour=price_per_hour))
        return
    if not settings.cluster.part:
        _conclude(map_event(settings, console=_progress_console()), settings.output)
        return
    part = map_part(settings, console=_progress_console())
    click.echo(
        f"part {part.part}: {part.throughput.chunks} chunks done in {part.throughput.wall_s:.0f} s; "
        f"coseis finish {settings.output.out} draws the map when all parts are there"
    )
    _refuse_failures(part.failed, settings.output, "the part's report in parts/")


@cli.command()
@click.argument("run")
@click.option(
    "--threshold", help="card, otsu, isodata, or a probability from 0 to 1. Default: as it was begun with."
)
@click.option("--min-area", metavar="NUMBER", help="Least area of a polygon, m2. Default: as above.")
@click.option(
    "--tolerate-failed", metavar="INTEGER", help="Failed chunks that still end with 0. Default: as above."
)
def finish(run: str, **options: Any) -> None:
    """Draw the map of RUN from the chunks that are done.

    After all parts of `coseis map --part I/N`; or while they go on, for a map of what is there.

    \b
    Example:
      coseis finish s3://maps/iburi
    """
    settings = load_stage(OutputConfig, {"out": run, **given_options(options)})
    from coseis.pipeline import finish_run

    report = finish_run(settings, console=_progress_console())
    _conclude(report, report.config.output)


@cli.command()
@click.argument("run")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free."
)
def view(run: str, port: int) -> None:
    """Show the map of RUN in a browser of this machine.

    Serves what RUN publishes on 127.0.0.1 until Ctrl-C. RUN is a folder, s3://, gs:// or az://; of a bucket
    that browsers may read, open index.html there.

    \b
    Example:
      coseis view OUT
    """
    from coseis.server import serve_run

    serve_run(run, port, lambda address: click.echo(f"{address}  (Ctrl-C ends)"))


@cli.command()
@click.argument("run")
@click.option("--threshold", required=True, help="card, otsu, isodata, or a probability from 0 to 1.")
@click.option("--min-area", metavar="NUMBER", help="Least area of a polygon, m2. Default: as it was.")
@setting_options("terrain")
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

    options = load_stage(TerrainConfig, given_options(terrain))
    report = vectorize_run(output, terrain=options, console=_progress_console())
    _conclude(report, report.config.output)


@cli.command()
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


class TrainCommand(StagedCommand):
    """Lists the stages of a training."""

    config = LearnConfig


@cli.command(cls=TrainCommand)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@setting_options(*LearnConfig.model_fields, config=LearnConfig)
def train(config: Path | None, **options: Any) -> None:
    """Train a model on labelled scenes or patches, or go on from one.

    Settings come from options, from CONFIG (a YAML file), or from both; options win. Several regions, and
    the augmentation, are set in CONFIG. The epoch with the lowest validation loss is kept, and the threshold
    with the best F1 on the validation part; without one the last epoch is kept, and the threshold as it was.

    \b
    Example:
      coseis train --catalog https://example.org/stac --labels landslides.gpkg \\
        --event-time 2018-09-05T18:08:00Z --aoi 141.84,42.63,142.14,42.89 \\
        --split south --validation-share 0.4 --out my-model

    \b
    From folders of labelled images:
      coseis train --patches tiles --scene mosaic.tif \\
        --validation-groups tiles-623,tiles-660 --out my-model

    \b
    From the shipped model and ten polygons drawn after a new event:
      coseis train --start shipped --catalog catalog.json --labels ten.gpkg \\
        --event-time 2018-09-05T18:08:00Z --aoi area.geojson \\
        --label-reach-m 60 --epochs 3 --learning-rate 0.0003 --out tuned

    \b
    Several places in CONFIG; the headings below are its sections:
      regions:
        - {catalog: a.json, aoi: a.geojson, event_time: 2018-09-05T18:08:00Z,
           labels: a.gpkg, group: iburi, weight: 2}
        - {catalog: b.json, aoi: b.geojson, event_time: 2015-04-25T06:11:00Z,
           labels: b.gpkg, group: gorkha}
      patches:
        - {patches: hrgldd.npz}
      validation: {validation_groups: gorkha}
      training: {epochs: 30, augmentation: {scale: 0.3}}
      output: {out: my-model}
    """
    settings = load_learn_config(config, given_options(options))
    from coseis.learn.learning import learn_model

    console = _progress_console()
    # A log gets no bar, but an epoch may take an hour: each is a line.
    tell = (lambda line: click.echo(line, err=True)) if console.quiet else None
    show_training(learn_model(settings, console=console, tell=tell), settings.output.out)


@cli.command()
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


@cli.command()
@click.argument("inventory")
@click.option("--reference", help="Another inventory of the event, a run or a file: how far they agree.")
@click.option("--area", help="Polygons of what a file has mapped: gives density, and tells what is cut.")
@click.option(
    "--completeness", type=click.FloatRange(min=0), metavar="M2", help="From this area on nothing is missing."
)
@click.option("--sensitivity", is_flag=True, help="Draw a run anew at thresholds 0.1 lower and higher too.")
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
    """Say how many landslides of which sizes INVENTORY holds, and by which law.

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
        console=_progress_console(),
        **options,
    )
    show_statistics(found)
    if out:
        click.echo(f"wrote {out}/statistics.json and statistics.png")


@cli.command()
@click.option("--catalog", default=None, help="Look whether this STAC API, catalog or file answers.")
@click.option(
    "--scheduler",
    default="local",
    envvar="DASK_SCHEDULER_ADDRESS",
    help="Look whether this scheduler answers, and which workers it has.",
)
@click.option("--tls-ca", default=None, help="As for map.")
@click.option("--tls-cert", default=None, help="As for map.")
@click.option("--tls-key", default=None, help="As for map.")
@click.option("--plain-scheduler", is_flag=True, default=None, help="As for map.")
@click.option("--out", default=None, help="Look whether a run can be written there.")
def doctor(catalog: str | None, out: str | None, **cluster: Any) -> None:
    """Show versions, devices, credentials, and what answers.

    The values of credentials are never shown. Ends with the exit code that a run would end with if what it
    was asked to look at does not answer.

    \b
    Example:
      coseis doctor
      coseis doctor --catalog https://example.org/stac --out s3://maps/iburi
    """
    config = load_stage(ClusterConfig, given_options(cluster))
    from coseis.doctor import certificates, findings, reachability

    for topic, text in (*findings(), *certificates(config)):
        click.echo(f"{topic:32} {_one_line(text)}")
    errors: list[CoseisError] = []
    for topic, answer in reachability(catalog=catalog, config=config, out=out):
        click.echo(f"{topic:32} {_one_line(str(answer))}")
        errors += [answer] if isinstance(answer, CoseisError) else []
    if errors:
        raise errors[0]


def _conclude(report: "RunReport", settings: OutputConfig) -> None:
    """The last lines of a run, and its exit code."""
    out = settings.out.rstrip("/")
    if settings.update and report.updates:
        update = report.updates[-1]
        click.echo(
            f"update {update.number}: {len(update.added)} scenes added, {len(update.removed)} removed, "
            f"{len(update.changed)} changed; {update.changed_chunks} chunks had other scenes than before"
        )
    click.echo(
        f"{report.landslide_count} landslides, {report.landslide_area_m2 / 1e6:.3f} km2, on "
        f"{100 * report.observed_share:.1f} % observed of {report.aoi_km2:.1f} km2"
    )
    kinds = [f"{total.count} {change}" for change, total in report.changes.items() if total.count]
    if report.status_shares.keys() >= {"pre"}:
        click.echo(f"against the scenes before: {', '.join(kinds) or 'nothing'}")
    hidden = {name: share for name, share in report.status_shares["post"].items() if name != "observed"}
    if hidden:
        said = ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f} %" for name, share in hidden.items())
        click.echo(f"not clear: {said}; see {out}/observed.parquet")
    if report.scenes_without_mask:
        click.echo(
            f"{len(report.scenes_without_mask)} scenes have no usable data mask: clouds in them are not told"
        )
    click.echo(f"map: coseis view {out}")
    click.echo(f"picture {out}/map.png, polygons {out}/landslides.parquet, report {out}/run.json")
    _refuse_failures(report.failed, settings, f"{out}/run.json")


def _refuse_failures(failed: Sequence["FailedChunk"], settings: OutputConfig, where: str) -> None:
    """Lists the chunks that failed, and ends with their exit code if they are more than are tolerated."""
    for failure in failed[:LISTED_FAILURES]:
        click.echo(_one_line(f"chunk {failure.chunk} failed: {failure.reason}"), err=True)
    count = len(failed)
    if count > settings.tolerate_failed:
        raise IncompleteError(
            f"{count} {'chunk' if count == 1 else 'chunks'} failed, all listed in {where}; "
            "run again with --resume"
        )


if __name__ == "__main__":
    main()
