"""Settings by stage: a YAML file and options go in, one checked value comes out, or all that is wrong.

What a run or a training takes is a model a stage (`config`, `learn.config`); how files are read and mistakes
are told is the same for all of them and lies here.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from coseis.addresses import public_form
from coseis.errors import UsageError
from coseis.types import Value

EMPTY = ("", "~", "null", None)
"""What a YAML file holds where a key has no value."""
MAX_FILE_BYTES = 2**20
SHOWN_LETTERS = 200
"""Of a wrong value, in a message."""
Setting = TypeVar("Setting", bound=Value)


def settings_of(config: type[Value]) -> Iterator[tuple[str, str, FieldInfo]]:
    """(stage, name, field) of every setting."""
    for stage, field in config.model_fields.items():
        # A stage that is a list has the settings of its entries.
        model = get_args(field.annotation)[0] if is_list(field) else field.annotation
        if is_nested(model):
            for name, option in model.model_fields.items():
                yield stage, name, option


def is_list(field: FieldInfo) -> bool:
    """Whether a stage is a list of entries, such as regions."""
    return get_origin(field.annotation) is tuple


def is_nested(annotation: Any) -> TypeGuard[type[Value]]:
    """Whether a setting has settings of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Value)


def read_stages(config: type[Value], path: Path | None) -> dict[str, Any]:
    """The settings of a YAML file by stage, not checked yet; stages that are not in it are empty.

    Raises:
        UsageError: the file cannot be read, or holds what is no stage.
    """
    stages: dict[str, Any] = {
        stage: [] if is_list(field) else {} for stage, field in config.model_fields.items()
    }
    return stages | (_read_yaml(config, path) if path else {})


def check_stages(
    config: type[Setting], stages: Mapping[str, Any], path: Path | None, options: Mapping[str, Any]
) -> Setting:
    """The checked configuration of settings by stage; path and options are where they come from.

    Raises:
        UsageError: a value is missing or of the wrong kind; all of them are named.
    """
    try:
        return config.model_validate(dict(stages))
    except ValidationError as error:
        problems = [(*_place(config, problem["loc"]), problem) for problem in error.errors()]
        raise UsageError(_explain(config, problems, path, options)) from error


def check_stage(config: type[Value], stage: type[Setting], options: Mapping[str, Any]) -> Setting:
    """One stage of a configuration alone, for the commands that need no more.

    Raises:
        UsageError: a value is missing or of the wrong kind; all of them are named.
    """
    try:
        return stage.model_validate(dict(options))
    except ValidationError as error:
        problems = [("", str(problem["loc"][0]), problem) for problem in error.errors()]
        raise UsageError(_explain(config, problems, None, options)) from error


def _read_yaml(config: type[Value], path: Path) -> dict[str, Any]:
    """Stage to its settings, or to a list of them. Scalars stay text as it was written on a command line.

    YAML's own types would turn an item id such as 20180911_011530_1001 into a number, and a time into one
    without the zone that it was written with.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
        # It makes text, lists and mappings only, so it is as safe as safe_load.
        stages = yaml.load(text.decode("utf-8"), Loader=_PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UsageError(f"config {path} cannot be read: {reason}") from error
    if not isinstance(stages, dict) and stages not in EMPTY:
        raise UsageError(f"config {path} is no mapping; {_shape(config)}")
    given: dict[str, Any] = {}
    for stage, settings in ({} if stages in EMPTY else stages).items():
        if stage not in config.model_fields:
            raise UsageError(f"{path}: {stage} is not a stage{_hint(config, stage)}; {_shape(config)}")
        if is_list(config.model_fields[stage]):
            entries = [] if settings in EMPTY else settings
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise UsageError(
                    f"{path}: {stage} is {settings!r}; expected a list, its settings beneath each -"
                )
            given[stage] = [_without_empty(entry) for entry in entries]
        elif isinstance(settings, dict) or settings in EMPTY:
            given[stage] = _without_empty(settings or {})
        else:
            raise UsageError(f"{path}: {stage} is {settings!r}; {_shape(config)}")
    return given


class _PlainLoader(yaml.BaseLoader):
    """Refuses aliases: nine, each a list of nine of the one before, are a thousand million entries."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name); write the value again")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> str:
        text = str(super().construct_scalar(node))
        if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
            raise yaml.YAMLError(f"it holds a text that no system can take: {text[:40]!a}")
        return text


def _without_empty(settings: Mapping[str, Any] | str) -> dict[str, Any]:
    items = settings.items() if isinstance(settings, Mapping) else ()
    return {name: value for name, value in items if value not in EMPTY}


def _place(config: type[Value], location: tuple[int | str, ...]) -> tuple[str, str]:
    """Stage and name of what pydantic found: ("regions", 0, "labels") is ("regions[0]", "labels").

    The name is empty for what is wrong with a stage as a whole.
    """
    stage, *rest = location
    place = str(stage)
    if rest and isinstance(rest[0], int):
        place += f"[{rest.pop(0)}]"
    if not rest:
        return place, ""
    name = str(rest[0])
    fields = {option: field for where, option, field in settings_of(config) if where == stage}
    # What follows the name of any other setting is a member of a union or of a list.
    if len(rest) > 1 and name in fields and is_nested(fields[name].annotation):
        name += f".{rest[1]}"
    return place, name


def _shape(config: type[Value]) -> str:
    return f"expected {', '.join(config.model_fields)}, each with its settings beneath"


def _hint(config: type[Value], name: str, stage: str | None = None) -> str:
    """What was probably meant by a name that is no setting of its stage, and where that belongs."""
    places: dict[str, str] = {}
    for place, option, field in settings_of(config):
        nested = field.annotation.model_fields if is_nested(field.annotation) else ()
        for setting in (option, *(f"{option}.{inner}" for inner in nested)):
            # Several stages may have a setting of one name: the one that was written in comes first.
            places[setting] = stage if stage and places.get(setting) == stage else place
    folded = name.replace("-", "_").lower()
    if folded in places and places[folded] != stage:
        return f"; {folded} belongs under {places[folded]}"
    known = [*places, *(() if stage else config.model_fields)]
    close = difflib.get_close_matches(folded, known, n=1)
    if not close:
        return ""
    where = f" under {places[close[0]]}" if places.get(close[0], stage) != stage else ""
    return f"; did you mean {close[0]}{where}?"


def _explain(
    config: type[Value],
    problems: Sequence[tuple[str, str, ErrorDetails]],
    path: Path | None,
    options: Mapping[str, Any],
) -> str:
    """All problems (stage, name, what) in a user's words, each named as written: an option or a key."""
    missing: list[str] = []
    unknown: list[str] = []
    wrong: dict[str, list[str]] = {}
    for stage, name, problem in problems:
        in_file = path is not None and name not in options
        place = f"{stage}.{name}" if in_file else f"--{name.replace('_', '-')}"
        if problem["type"] == "missing":
            missing.append(place)
        elif problem["type"] == "extra_forbidden":
            unknown.append(f"{place} is not a setting{_hint(config, name, stage.partition('[')[0])}")
        elif not name:
            unknown.append(problem["msg"].removeprefix("Value error, "))
        else:
            # A union fails once a member: its expectations belong together.
            expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            if name == "threshold" and "than or equal to" in expected:
                expected = "a probability from 0 to 1"
            given = public_form(repr(problem["input"]))
            given = given if len(given) <= SHOWN_LETTERS else f"{given[:SHOWN_LETTERS]}..."
            wrong.setdefault(f"{place} is {given}", []).append(expected.partition(", unable")[0])
    said = [f"{', '.join(missing)} missing"] if missing else []
    said += unknown
    said += [f"{what}; expected {' or '.join(wanted)}" for what, wanted in wrong.items()]
    return "; ".join(said) if path is None else f"{path}: {'; '.join(said)}"
