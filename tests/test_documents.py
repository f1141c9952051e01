"""Documents: links lead somewhere, command lines are ones that there are, and what is named is explained."""

import re
import shlex
from urllib.parse import unquote, urlsplit

import click
import pytest

from coseis.cells import REASONS
from coseis.change import CHANGES
from coseis.cli import cli
from coseis.model import load_model
from coseis.publish import INVENTORY_COLUMNS, RUN_COLUMNS
from coseis.types import Status
from markdown_blocks import ROOT, anchors, blocks, links, pages

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def rows(text: str) -> list[list[str]]:
    """Cells of all tables of a page, heads and rules left out."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if not set("".join(line)) <= set("-: ")]


def command_lines() -> list[tuple[str, str]]:
    """Every line of the documents that calls coseis, with its page; lines that go on are joined."""
    found = []
    for page in pages():
        code = "\n".join(block.code for block in blocks(page)).replace("\\\n", " ")
        lines = [line.strip() for line in code.splitlines()]
        found += [(str(page.relative_to(ROOT)), line) for line in lines if line.startswith("coseis ")]
    return found


def parse(line: str) -> None:
    """Gives a line to the command line's own parser; nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    name, command, rest = cli.resolve_command(click.Context(cli), words)
    command.make_context(name, rest)


@PAGES
def test_relative_links_lead_somewhere(page):
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = page.parent / unquote(parts.path) if parts.path else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_command_lines_are_ones_that_there_are(page, line):
    parse(line)


def test_a_wrong_option_is_found():
    assert len(command_lines()) > 10
    with pytest.raises(click.UsageError, match="No such option"):
        parse("coseis map event.yaml --treshold 0.5")


def test_index_names_every_page():
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / urlsplit(link).path).resolve() for link in links(index)}
    decisions = ROOT / "docs" / "decisions"
    others = {page for page in pages() if decisions not in page.parents} - {ROOT / "CONTRIBUTING.md", index}
    others |= {decisions, *(ROOT / "notebooks").glob("*.ipynb")}
    assert others <= named


def test_status_codes_are_those_of_the_code():
    section = GLOSSARY.split("## Status codes")[1].split("\n## ")[0]
    listed = {int(row[0]): row[1] for row in rows(section) if row[0].isdecimal()}
    assert listed == {int(code): code.name.lower().replace("_", " ") for code in Status}


def test_every_column_is_explained():
    attributes = FORMATS.split("## Attributes")[1]
    described = {name for row in rows(attributes) for name in re.findall(r"`(\w+)`", row[0])}
    assert {*INVENTORY_COLUMNS, *RUN_COLUMNS} <= described
    assert "formats.md#attributes" in links(ROOT / "docs" / "glossary.md")
    here = {name for row in rows(GLOSSARY) for name in re.findall(r"`(\w+)`", row[0])}
    assert {reason.name.lower() for reason in REASONS} <= here


def test_changes_are_explained():
    terms = {term.strip() for row in rows(GLOSSARY) for term in row[0].split(",")}
    assert set(CHANGES) <= terms


def test_scores_of_the_model_are_those_of_ladder_and_card():
    model, ladder = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("model.md", "ladder.md"))
    [by_ladder, by_card] = [row for row in rows(model) if row[0] == "all of Iburi"]
    transfer = rows(ladder.split("### transfer")[1])
    of_ladder = dict(zip(transfer[0], next(row for row in transfer if row[0] == "ours"), strict=True))
    assert by_ladder[2].startswith(of_ladder["threshold"])
    assert by_ladder[3:] == [of_ladder["F1"], of_ladder["F1 ±2 px"]]
    card = load_model().card
    of_card = card.metrics["held_out"]["transfer"]
    assert by_card[2].startswith(str(card.threshold))
    assert by_card[3:] == [f"{of_card[name]:.3f}" for name in ("f1", "f1_beyond_2px")]
    elsewhere = [rows(part) for part in ladder.split("### ") if part.startswith("hrgldd-")]
    ours = [
        dict(zip(table[0], next(row for row in table if row[0] == "ours"), strict=True))
        for table in elsewhere
    ]
    for name, shown in (
        ("F1", "F1 of `ours` is {} to {}"),
        ("best F1", "and {} to {} at the best threshold"),
    ):
        scores = sorted(float(row[name]) for row in ours)
        assert shown.format(f"{scores[0]:.2f}", f"{scores[-1]:.2f}") in " ".join(model.split())


def test_glossary_explains_once():
    terms = [row[0] for row in rows(GLOSSARY) if row[0] not in ("term", "column", "code")]
    assert len(set(terms)) == len(terms)


def test_accuracy_tables_have_their_command():
    for name in ("model.md", "ladder.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        commands = re.findall(r"python (benchmarks/\w+\.py)", text)
        assert commands
        assert all((ROOT / command).exists() for command in commands)
