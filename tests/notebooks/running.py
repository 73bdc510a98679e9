"""Runs a notebook's code as Jupyter would, in one namespace, and keeps what it shows.

python -m tests.notebooks.running NOTEBOOK writes that into the notebook; test_first_scores.py compares. Cells
whose outputs differ from machine to machine have the tag "varies".
"""

import ast
import base64
import io
import json
import os
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Outputs = list[dict[str, Any]]
"""Of a cell, as a notebook stores them."""


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """The code cells, in order."""
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any], count: int) -> Outputs:
    """Run a cell: what it printed, and the value of its last line, where that is an expression."""
    body, value, printed = ast.parse(source).body, None, io.StringIO()
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)  # noqa: S102
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    outputs: Outputs = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        shown = {"execution_count": count, "metadata": {}, "data": show(value)}
        outputs.append({"output_type": "execute_result", **shown})
    return outputs


def show(value: Any) -> dict[str, Any]:
    """A value by the kinds of display it has."""
    shown: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_png_"):
        shown["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return shown


def run_notebook(notebook: Path, names: dict[str, Any]) -> list[Outputs]:
    """Run the code cells in the working folder; names: what they leave."""
    cells = enumerate(read_cells(notebook), start=1)
    return [run_cell("".join(cell["source"]), names, count) for count, cell in cells]


def write_outputs(notebook: Path) -> None:
    """Run a notebook in a folder of its own and store what it shows in it."""
    with TemporaryDirectory() as folder, chdir(folder):
        os.environ["FRINGE_CACHE"] = str(Path(folder) / "cache")
        outputs = run_notebook(notebook, {})
    whole = json.loads(notebook.read_text())
    cells = [cell for cell in whole["cells"] if cell["cell_type"] == "code"]
    for count, (cell, shown) in enumerate(zip(cells, outputs, strict=True), start=1):
        cell |= {"outputs": shown, "execution_count": count}
    notebook.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_outputs(Path(sys.argv[1]).resolve())
