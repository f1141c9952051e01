"""The code cells of a notebook, run in order in the folder at hand: `python run_cells.py NOTEBOOK`."""

import ast
import json
import sys
from pathlib import Path


def run(notebook: Path) -> None:
    """Runs each cell, and shows the value of an expression that ends it, as a notebook does."""
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = ast.parse("".join(cell["source"]))
        shown = lines.body.pop() if isinstance(lines.body[-1], ast.Expr) else None
        exec(compile(lines, cell["id"], "exec"), names)
        if shown:
            value = eval(compile(ast.Expression(shown.value), cell["id"], "eval"), names)
            if value is not None:
                print(value)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
