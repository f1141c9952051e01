"""CITATION.cff says of the package what the package says of itself."""

from pathlib import Path

import yaml

import coseis

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == coseis.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "coseis contributors"}]
    assert citation["references"][0]["doi"] == "10.3390/rs12233992"
