"""Has the reference show `Example:` sections of docstrings as code: griffe knows them in the plural only."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads the singular as the plural."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change what the reference is made of, not the source."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
