"""Docstrings in, pages of the Python interface out: `python docs/reference.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import coseis

MODULES = (
    "coseis",
    "coseis.event",
    "coseis.search",
    "coseis.types",
    "coseis.cube",
    "coseis.model",
    "coseis.card",
    "coseis.config",
    "coseis.report",
    "coseis.evaluation.scores",
    "coseis.training.settings",
    "coseis.training.sources",
    "coseis.training.trainer",
    "coseis.learn.config",
    "coseis.learn.learning",
    "coseis.simulate",
    "coseis.errors",
)
"""The public names, then the modules of what they take and give."""


def build(folder: Path) -> None:
    """Writes a page a module and a search index; what pdoc warns of is an error."""
    # pdoc looks for names in the module's dictionary, where a lazy one is not until it is first used.
    vars(coseis).update({name: getattr(coseis, name) for name in coseis.__all__})
    pdoc.render.configure(docformat="google", footer_text=f"coseis {coseis.__version__}")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/reference.py FOLDER")
    build(Path(sys.argv[1]))
