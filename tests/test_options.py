"""Options and --help come from the settings: each is there, under its stage, with a text and an example."""

import re

import click
import pytest
from click.testing import CliRunner

from coseis.cli import cli
from coseis.config import stage_options
from coseis.options import given_options

COMMANDS = (
    "demo",
    "simulate",
    "search",
    "map",
    "finish",
    "view",
    "vectorize",
    "export",
    "edit",
    "train",
    "evaluate",
    "statistics",
    "doctor",
)


def shown(*words: str) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="coseis")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    text = shown(command)
    assert f"Example:\n    coseis {command}" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_help_of_map_documents_every_setting_under_its_stage():
    text = shown("map")
    for stage, name, field in stage_options():
        section = text.split(f"\n{stage}:\n")[1].split("\n\n")[0]
        _, found, described = section.partition(f"  --{name.replace('_', '-')} ")
        assert found, name
        assert ("[required]" in described.split("  --")[0]) == field.is_required()


def test_help_says_how_a_value_is_written_and_its_default():
    text = " ".join(shown("map").split())
    assert "--threshold card|otsu|isodata|NUMBER " in text
    assert "--collection TEXT[,TEXT...] " in text
    assert "--core INTEGER " in text
    assert "--resume Go on" in text
    assert "Least area of a polygon, m2. [default: 100]" in text
    assert "[default: standard]" in text


def test_commands_are_listed_in_the_order_of_work_with_the_exit_codes():
    assert tuple(cli.commands) == COMMANDS
    text = shown()
    places = [text.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)
    assert "..." not in text.split("Commands:")[1]
    assert re.search(r"0 done; 3 .* 2 .* 42 .* 75 .* 130", " ".join(text.split()))


def test_every_option_has_a_text():
    for command in cli.commands.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.name


def test_options_that_were_not_given_stay_out():
    options = {"catalog": "a", "pre": None, "collection": (), "include": ("b", "c,d"), "resume": True}
    assert given_options(options) == {"catalog": "a", "include": "b,c,d", "resume": True}
    assert given_options({"quality": ("",)}) == {"quality": ""}  # given, to accept any
