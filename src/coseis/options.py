"""Settings of `coseis.config` go in, click options come out: one source for file, options and --help."""

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from coseis.config import FILE_ONLY, MapConfig
from coseis.stages import is_list, is_nested, settings_of
from coseis.types import Value

Command = TypeVar("Command", bound=Callable[..., Any])


def setting_options(*stages: str, config: type[Value] = MapConfig) -> Callable[[Command], Command]:
    """Decorates a command with an option for every setting of these stages that has a word for it.

    All are optional to click, for the configuration file may hold them; `load_config` says what is missing.
    """

    def decorate(command: Command) -> Command:
        for stage, name, field in reversed(list(settings_of(config))):
            file_only = FILE_ONLY in field.metadata or is_nested(field.annotation)
            if stage in stages and not file_only:
                # What a list's entry needs is needed only where there is one.
                required = field.is_required() and not is_list(config.model_fields[stage])
                command = _option(name, field, required=required)(command)
        return command

    return decorate


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; a repeatable one that was not is an empty tuple."""
    given = {}
    for name, value in options.items():
        if value is not None and value != ():
            given[name] = ",".join(value) if isinstance(value, tuple) else value
    return given


class FlowGroup(click.Group):
    """Lists its commands in the order of a user's work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of definition."""
        return list(self.commands)


class StagedCommand(click.Command):
    """Lists its options under the stages of the configuration file, so that --help documents the file too."""

    config: type[Value] = MapConfig

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section a stage, then what belongs to none."""
        stages = {name: stage for stage, name, _ in settings_of(self.config)}
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                sections.setdefault(stages.get(parameter.name or "", "options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _option(name: str, field: FieldInfo, *, required: bool) -> Callable[[Command], Command]:
    flag, text = f"--{name.replace('_', '-')}", str(field.description)
    if field.annotation is bool:
        return click.option(flag, name, is_flag=True, default=None, help=text)
    if required:
        text += "  [required]"
    elif not field.is_required() and field.default not in (None, ()):
        text += f"  [default: {_written(field.default)}]"
    # A tuple of any length may be given by repeating its option, one of fixed length only at once.
    several = get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation)
    metavar = "|".join(_forms(field.annotation))
    return click.option(flag, name, multiple=several, help=text, metavar=metavar)


def _written(default: Any) -> str:
    """A default as one would type it."""
    if isinstance(default, tuple):
        return ",".join(_written(part) for part in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _forms(annotation: Any) -> list[str]:
    """How values of a type are typed: the words of a Literal, INTEGER, NUMBER or TEXT."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if annotation in (int, float, str, NoneType):
        return {int: ["INTEGER"], float: ["NUMBER"], str: ["TEXT"]}.get(annotation, [])
    if get_origin(annotation) is tuple:
        forms = ["|".join(_forms(member)) for member in get_args(annotation) if member is not Ellipsis]
        return [f"{forms[0]}[,{forms[0]}...]" if Ellipsis in get_args(annotation) else ",".join(forms)]
    # A union, or Annotated[float, ...], whose other arguments are constraints.
    members = [member for member in get_args(annotation) if isinstance(member, type) or get_args(member)]
    return [form for member in members for form in _forms(member)]
