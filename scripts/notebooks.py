"""Makes the notebooks: runs their sources, notebooks/*.py, and writes what came out as notebooks/*.ipynb.

Run: python scripts/notebooks.py [NAME …]      all of them, if none is named; needs matplotlib

A source is a program whose cells begin with `# %%`, or `# %% [markdown]` for words. Its cells are run in one namespace,
one after the other, as Jupyter does: what is printed, the value of a last line that is an expression, and the figures
are a cell's outputs. Jupyter itself is not needed.
"""

import ast
import base64
import contextlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NAMES = ("derivation", "digits")
MARK = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def cells_of(source):
    """The cells of a source, as pairs of their kind and their text."""
    _, *parts = MARK.split(source)
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if kind:
            yield "markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip().split("\n"))
        else:
            yield "code", text.strip()


def run(source):
    """The cells of a source with their outputs, as a notebook has them."""
    import matplotlib
    import matplotlib.pyplot as plt

    names, count, shown = {"__name__": "__main__"}, 0, plt.show
    with matplotlib.rc_context({"backend": "agg"}):
        try:
            for number, (kind, text) in enumerate(cells_of(source), 1):
                lines = text.splitlines(keepends=True)
                cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines}
                if kind == "code":
                    count += 1
                    cell |= {"execution_count": count, "outputs": outputs(text, names, count)}
                yield cell
        finally:
            plt.show = shown


def outputs(code, names, count):
    """Runs a cell. Returns what it prints, draws and ends in, in this order."""
    import matplotlib.pyplot as plt

    found, printed = [], io.StringIO()

    def show():
        if printed.getvalue():
            lines = printed.getvalue().splitlines(keepends=True)
            found.append({"output_type": "stream", "name": "stdout", "text": lines})
        printed.seek(0)
        printed.truncate()
        for figure in map(plt.figure, plt.get_fignums()):
            found.append({"output_type": "display_data", "metadata": {}, "data": {"image/png": png(figure)}})
        plt.close("all")

    plt.show = show
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        statements, last = [*statements, last], ast.Expr(ast.Constant(None))
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(statements, []), f"cell {count}", "exec"), names)
        value = eval(compile(ast.fix_missing_locations(ast.Expression(last.value)), f"cell {count}", "eval"), names)
    show()
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        found.append({"output_type": "execute_result", "metadata": {}, "execution_count": count, "data": data})
    return found


def png(figure):
    """A figure as a notebook holds it, without a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def notebook(cells):
    """A notebook of these cells, in the fourth format."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            made = notebook(run((FOLDER / f"{chosen}.py").read_text()))
        path = FOLDER / f"{chosen}.ipynb"
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        print(f"{path.name}: {len(made['cells'])} cells, {os.path.getsize(path) / 1000:.0f} kB")
