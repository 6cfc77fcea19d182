"""Docstrings as mkdocstrings reads them: an `Example:` is a section of examples."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Google's style has the plural alone."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at the docstring of whatever has one."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
