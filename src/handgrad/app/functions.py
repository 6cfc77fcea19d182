"""A function of the user's, from a Python file."""

import functools
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any


def load_function(argument: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names, in whose errors the file and the line stand."""
    file, _, name = argument.rpartition(":")
    path = pathlib.Path(file)
    if path.suffix != ".py" or not name:
        raise ValueError(f"--gradient must be FILE.py:FUNCTION, as in my_file.py:gradient; got {argument!r}.")
    if not path.is_file():
        raise ValueError(f"--gradient {argument}: there is no file {file}.")
    functions = {key: value for key, value in _run(path).items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        here = ", ".join(key for key, value in functions.items() if not isinstance(value, type)) or "none"
        raise ValueError(f"--gradient {argument}: {file} has no function {name}. Its functions: {here}.")
    return _with_place(functions[name], path, name)


def _run(path: pathlib.Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("handgrad_user_file", path.absolute())
    assert spec is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their own module there
    sys.path.insert(0, str(path.parent.absolute()))  # as for a script: modules beside it can be imported
    try:
        # Not by the loader: an interruption waits for the end of an import, and a file of the user's may take its time.
        exec(compile(path.read_bytes(), str(path.absolute()), "exec"), vars(module))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}.") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{_place(error, path)} {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.absolute()))
    return vars(module)


def _with_place(function: Callable[..., Any], path: pathlib.Path, name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            X, targets = arguments[1:3]
            raise ValueError(
                f"{_place(error, path)} {type(error).__name__}: {error} (in {name}(params, X, targets), X "
                f"{X.shape} of {X.dtype}, targets {targets.shape} of {targets.dtype})"
            ) from error

    return call


def _place(error: BaseException, path: pathlib.Path) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    return f"{path}, line {lines[-1]}:" if lines else f"{path}:"
