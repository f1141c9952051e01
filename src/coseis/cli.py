"""The command line: words in, one of the pipeline's functions called, an exit code and one clear line out.

Nothing heavy is imported before a command runs: `coseis --help` loads neither TensorFlow, GDAL nor Dask.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from coseis import __version__
from coseis.addresses import public_form
from coseis.cli_inventory import edit, evaluate, export, statistics, vectorize
from coseis.config import ClusterConfig, ExposureConfig, OutputConfig, SearchConfig, load_config, load_stage
from coseis.errors import CoseisError, InputRefusedError, UnreachableError
from coseis.learn.config import LearnConfig, load_learn_config
from coseis.options import FlowGroup, StagedCommand, given_options, setting_options
from coseis.stopping import REASON, Stopped, obeying_sigterm, set_grace
from coseis.summaries import (
    conclude_run,
    one_line,
    progress_console,
    refuse_failures,
    show_estimate,
    show_training,
    show_truth,
)

if TYPE_CHECKING:
    pass

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""


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
    click.echo(f"coseis: {one_line(public_form(message))}", err=True)
    raise SystemExit(exit_code)


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


@click.command()
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

    report = run_demo(out, size_km=size_km, console=progress_console())
    show_truth(report.truth or {})
    conclude_run(report, report.config.output)


@click.command()
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


@click.command()
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
        click.echo(one_line(f"{scene.phase:4} {scene.item_id}  {when}  {cloud}{level}"))
    click.echo(f"assets lie on: {', '.join(found.hosts)}")
    for refused in found.refused:
        click.echo(one_line(f"refused {refused.item_id}: {refused.reason}"))
    if out:
        try:
            out.write_text(found.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            raise InputRefusedError(f"{out} cannot be written ({error.strerror})") from error


@click.command("map", cls=StagedCommand)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@setting_options("search", "model", "output", "cluster", "terrain", "coregistration", "exposure")
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
        conclude_run(map_event(settings, console=progress_console()), settings.output)
        return
    part = map_part(settings, console=progress_console())
    click.echo(
        f"part {part.part}: {part.throughput.chunks} chunks done in {part.throughput.wall_s:.0f} s; "
        f"coseis finish {settings.output.out} draws the map when all parts are there"
    )
    refuse_failures(part.failed, settings.output, "the part's report in parts/")


@click.command()
@click.argument("run")
@click.option(
    "--threshold", help="card, otsu, isodata, or a probability from 0 to 1. Default: as it was begun with."
)
@click.option("--min-area", metavar="NUMBER", help="Least area of a polygon, m2. Default: as above.")
@click.option(
    "--tolerate-failed", metavar="INTEGER", help="Failed chunks that still end with 0. Default: as above."
)
@setting_options("exposure")
def finish(run: str, **options: Any) -> None:
    """Draw the map of RUN from the chunks that are done.

    After all parts of `coseis map --part I/N`; or while they go on, for a map of what is there.

    \b
    Example:
      coseis finish s3://maps/iburi
    """
    layers = {name: options.pop(name) for name in ExposureConfig.model_fields}
    settings = load_stage(OutputConfig, {"out": run, **given_options(options)})
    from coseis.pipeline import finish_run

    exposure = load_stage(ExposureConfig, given_options(layers))
    report = finish_run(settings, exposure=exposure, console=progress_console())
    conclude_run(report, report.config.output)


@click.command()
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


class TrainCommand(StagedCommand):
    """Lists the stages of a training."""

    config = LearnConfig


@click.command(cls=TrainCommand)
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

    console = progress_console()
    # A log gets no bar, but an epoch may take an hour: each is a line.
    tell = (lambda line: click.echo(line, err=True)) if console.quiet else None
    show_training(learn_model(settings, console=console, tell=tell), settings.output.out)


@click.command()
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
        click.echo(f"{topic:32} {one_line(text)}")
    errors: list[CoseisError] = []
    for topic, answer in reachability(catalog=catalog, config=config, out=out):
        click.echo(f"{topic:32} {one_line(str(answer))}")
        errors += [answer] if isinstance(answer, CoseisError) else []
    if errors:
        raise errors[0]


for command in (
    demo, simulate, search, map_command, finish, view, vectorize, export, edit, train, evaluate, statistics,
    doctor,
):  # fmt: skip
    cli.add_command(command)


if __name__ == "__main__":
    main()
