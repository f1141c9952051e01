"""Markdown goes in, its blocks of code, links and headings come out: for tests that follow documents."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
NEEDS_ACCOUNT = "needs-account"
"""Marks a fenced block that cannot be run without an account, as in ```sh needs-account."""


@dataclass(frozen=True)
class Block:
    """One fenced or indented block of code."""

    language: str
    """First word after the fence; empty of an indented block."""
    mark: str
    """What else stands there."""
    code: str
    line: int
    """Where it begins in the page, from 1."""


def tokens(page: Path) -> list[Token]:
    """The page as its parser sees it."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """Every block of code, in order."""
    found = []
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            language, _, mark = token.info.strip().partition(" ")
            found.append(Block(language, mark.strip(), token.content, (token.map or [0])[0] + 1))
    return found


def links(page: Path) -> list[str]:
    """Addresses of all links and images, those in HTML comments left out."""
    inline = [child for token in tokens(page) for child in token.children or ()]
    wanted = {"link_open": "href", "image": "src"}
    return [str(child.attrs[wanted[child.type]]) for child in inline if child.type in wanted]


def anchors(page: Path) -> set[str]:
    """What a link may name after #: the headings, as GitHub writes them."""
    parsed = tokens(page)
    titles = [
        parsed[number + 1].content for number, token in enumerate(parsed) if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def pages() -> list[Path]:
    """README and everything else that people read, but for notices of third parties."""
    top = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]
