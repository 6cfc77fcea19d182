"""Lines of the source and of the tests, as they are, so that no page can drift from them."""

import ast
import textwrap
from pathlib import Path

from pages.names import ROOT, link_to


def show_source(name: str, first: str | None = None, last: str | None = None, *, page: str) -> str:
    """The lines of a function or class without its docstring, or of these the ones from `first` to `last`."""
    path, node = find(name)
    numbered = without_docstring(path, node)
    if first is not None:
        start = _index(numbered, first, name, 0)
        end = start if last is None else _index(numbered, last, name, start)
        numbered = numbered[start : end + 1]
    lines, numbers = [text for _, text in numbered], [number for number, _ in numbered]
    shown = textwrap.dedent("\n".join(lines)).strip("\n")
    title = f"{path.relative_to(ROOT)}, lines {numbers[0]}–{numbers[-1]}"
    block = f'```python title="{title}"\n{shown}\n```'
    link = link_to(name, page)
    return f"{block}\n\nIn the reference: {link}.\n{{ .to-reference }}" if link else block


def show_test(name: str) -> str:
    """A test's lines, folded."""
    file, _, function = name.partition("::")
    path = ROOT / file
    if not path.is_file():
        raise ValueError(f"test: there is no {file}.")
    node = _within(ast.parse(path.read_text()), function, name)
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    lines = path.read_text().split("\n")[start - 1 : node.end_lineno]
    block = f'```python title="{file}, lines {start}–{node.end_lineno}"\n' + "\n".join(lines) + "\n```"
    return f'??? proof "Proved by `{function}`"\n\n' + textwrap.indent(block, "    ")


def find(name: str) -> tuple[Path, ast.AST]:
    """The file and the syntax of a function or class, `handgrad.module.function`."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        base = ROOT / "src" / Path(*parts[:length])
        path = base.with_suffix(".py")
        path = path if path.is_file() else base / "__init__.py"
        if path.is_file():
            node: ast.AST = ast.parse(path.read_text())
            for part in parts[length:]:
                node = _within(node, part, name)
            return path, node
    raise ValueError(f"source: there is no module of {name}.")


def _within(node: ast.AST, part: str, name: str) -> ast.AST:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for each in ast.walk(node):
        if isinstance(each, kinds) and each.name == part:
            return each
    raise ValueError(f"{name}: there is no {part} where it was looked for.")


def without_docstring(path: Path, node: ast.AST) -> list[tuple[int, str]]:
    """Numbered lines."""
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    left_out: range = range(0)
    if ast.get_docstring(node) is not None:
        left_out = range(node.body[0].lineno, node.body[0].end_lineno + 1)
    lines = path.read_text().split("\n")
    return [(number, lines[number - 1]) for number in range(start, node.end_lineno + 1) if number not in left_out]


def _index(numbered: list[tuple[int, str]], text: str, name: str, start: int) -> int:
    for index in range(start, len(numbered)):
        if text in numbered[index][1]:
            return index
    raise ValueError(f"source: no line of {name} has {text!r}.")
