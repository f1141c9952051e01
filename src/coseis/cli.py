"""The command line: words in, one of the pipeline's functions called, an exit code and one clear line out.

Nothing heavy is imported before a command runs: `coseis --help` loads neither TensorFlow, GDAL nor Dask.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from coseis import __version__
from coseis.config import MapConfig, OutputConfig, SearchConfig, load_config, load_stage
from coseis.errors import CoseisError, IncompleteError, InputRefusedError
from coseis.options import FlowGroup, StagedCommand, given_options, setting_options

if TYPE_CHECKING:
    from coseis.report import RunReport

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""
LISTED_FAILURES = 10
"""Failed chunks that are named on the terminal; all are in run.json."""


def main() -> None:
    """Entry point: every error that a user can cause becomes one line on stderr and its exit code."""
    try:
        cli.main(prog_name="coseis", standalone_mode=False)
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
    click.echo(f"coseis: {_one_line(message)}", err=True)
    raise SystemExit(exit_code)


def _one_line(text: str) -> str:
    """Without line breaks and terminal codes: catalogs and files are quoted in messages."""
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _progress_console() -> Console:
    """Where progress is drawn. A log gets none: rich would draw the bars once, at the end, over the error."""
    return Console(stderr=True, quiet=not sys.stderr.isatty())


@click.group(
    cls=FlowGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 3 done, but chunks failed; 2 wrong option, configuration, area or model; "
    "42 catalog, asset or output unusable; 75 something did not answer, run again; 130 interrupted.",
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
    from coseis.pipeline import map_event, score_run
    from coseis.simulate import simulate_event

    event = simulate_event(out / "event", size_km=size_km)
    settings = load_config(
        None,
        {
            "catalog": str(event.catalog),
            "aoi": str(event.aoi_path),
            "event_time": event.event_time.isoformat(),
            "out": str(out / "run"),
        },
    )
    report = map_event(settings, console=_progress_console())
    scores = score_run(str(out / "run"), event.landslides)
    click.echo(
        f"F1 {scores.f1 or 0:.3f}, precision {scores.precision or 0:.3f}, recall {scores.recall or 0:.3f} "
        f"against the exact truth ({event.landslide_count} landslides)"
    )
    _conclude(report, settings)


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
def simulate(out: Path, size_km: float, seed: int, preset: Any) -> None:
    """Make a synthetic event with its exact truth.

    OUT gets a STAC catalog of Planet-like scenes before and after, and truth/.

    \b
    Example:
      coseis simulate event --size-km 6 --seed 7
    """
    from coseis.simulate import simulate_event

    event = simulate_event(out, size_km=size_km, seed=seed, preset=preset)
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
        click.echo(_one_line(f"{scene.phase:4} {scene.item_id}  {scene.start:%Y-%m-%d %H:%M}Z  {cloud}"))
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
@setting_options("search", "model", "output", "cluster")
def map_command(config: Path | None, **options: Any) -> None:
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
    from coseis.pipeline import map_event

    _conclude(map_event(settings, console=_progress_console()), settings)


@cli.command()
@click.argument("run")
@click.option("--threshold", required=True, help="card, otsu, isodata, or a probability from 0 to 1.")
@click.option("--min-area", metavar="NUMBER", help="Least area of a polygon, m2. Default: as it was.")
def vectorize(run: str, threshold: str, min_area: str | None) -> None:
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

    report = vectorize_run(output, console=_progress_console())
    _conclude(report, report.config)


@cli.command()
@click.argument("run")
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON.")
def evaluate(run: str, labels: Path, as_json: bool) -> None:
    """Score RUN against LABELS, pixel by pixel, where it was observed.

    Counted are pixels at or above the run's threshold, also in polygons below its least area. LABELS are
    polygons (any vector file) or a raster in which 0 is background and one other number landslide.

    \b
    Example:
      coseis evaluate OUT truth/landslides.gpkg
    """
    import json

    from coseis.pipeline import score_run

    scores = score_run(run, labels)
    if as_json:
        click.echo(json.dumps(scores.summary()))
        return
    table = Table("precision", "recall", "F1", "IoU", "prevalence")
    values = (scores.precision, scores.recall, scores.f1, scores.iou, scores.prevalence)
    table.add_row(*("undefined" if value is None else f"{value:.4f}" for value in values))
    Console().print(table)


@cli.command()
def doctor() -> None:
    """Show versions, devices, and which credentials are set.

    The values of credentials are never shown.

    \b
    Example:
      coseis doctor
    """
    from coseis.doctor import findings

    for topic, text in findings():
        click.echo(f"{topic:32} {_one_line(text)}")


def _conclude(report: "RunReport", settings: MapConfig) -> None:
    """The last lines of a run, and its exit code."""
    out = settings.output.out.rstrip("/")
    click.echo(
        f"{report.landslide_count} landslides, {report.landslide_area_m2 / 1e6:.3f} km2, on "
        f"{100 * report.observed_share:.1f} % observed of {report.aoi_km2:.1f} km2"
    )
    click.echo(f"picture {out}/map.png, polygons {out}/landslides.parquet, report {out}/run.json")
    for failure in report.failed[:LISTED_FAILURES]:
        click.echo(_one_line(f"chunk {failure.chunk} failed: {failure.reason}"), err=True)
    count = len(report.failed)
    if count > settings.output.tolerate_failed:
        raise IncompleteError(
            f"{count} {'chunk' if count == 1 else 'chunks'} failed, all listed in {out}/run.json; "
            "run again with --resume"
        )


if __name__ == "__main__":
    main()
