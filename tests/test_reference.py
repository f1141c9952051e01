"""The Python interface: docstrings say all that a user needs, and become pages without a warning."""

import inspect
import re
import subprocess
import sys

import pytest

import coseis
from markdown_blocks import ROOT

SECTIONS = ("Args", "Returns", "Raises")
FUNCTIONS = [name for name in coseis.__all__ if inspect.isfunction(getattr(coseis, name))]


def sections(docstring: str) -> dict[str, str]:
    """Google sections by their heading."""
    parts = re.split(r"^(Args|Returns|Raises|Reference):\n", docstring, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section: str) -> dict[str, str]:
    """What a section says of each name."""
    parts = re.split(r"^    ([\w, ]+): ", section, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_sections_are_told_apart():
    told = sections(
        "What for.\n\nArgs:\n    mask: bool (y, x).\n        More.\n\nRaises:\n    UsageError: never.\n"
    )
    assert entries(told["Args"]) == {"mask": "bool (y, x).\n        More.\n\n"}
    assert set(entries(told["Raises"])) == {"UsageError"}


def test_public_names_are_functions_and_the_event():
    assert set(coseis.__all__) - set(FUNCTIONS) == {"Event"}
    assert inspect.getdoc(coseis.Event)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_says_what_goes_in_and_out(name):
    function = getattr(coseis, name)
    docstring, signature = inspect.getdoc(function), inspect.signature(function)
    told = sections(docstring)
    expected = [
        part for part in SECTIONS if part != "Returns" or signature.return_annotation not in (None, "None")
    ]
    assert [part for part in SECTIONS if part in told] == expected
    arguments = entries(told["Args"])
    assert list(arguments) == list(signature.parameters)
    assert entries(told["Raises"]), told["Raises"]
    for parameter in signature.parameters.values():
        if re.search("DataArray|NDArray|BoolArray", str(parameter.annotation)):
            said = arguments[parameter.name]
            assert re.search(r"\b(float|float32|uint8|uint16|bool)\b", said), (
                f"{parameter.name}: which dtype?"
            )
            assert re.search(r"\(.*y, x\)", said), f"{parameter.name}: which shape?"
    if re.search("DataArray|Dataset|NDArray", str(signature.return_annotation)):
        assert re.search(r"float32.*\(.*y, x\)", told["Returns"], re.DOTALL)


@pytest.mark.slow
def test_pages_are_made_without_a_warning(tmp_path):
    command = [sys.executable, "docs/reference.py", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    page = (tmp_path / "coseis.html").read_text(encoding="utf-8")
    for name in coseis.__all__:
        assert f'id="{name}"' in page
    # Types of a signature are linked to where they are described.
    assert re.search(r'<a href="coseis/event\.html#Found">', page)
    assert (tmp_path / "search.js").exists()
