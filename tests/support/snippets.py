"""Runs the Python examples of pages, each page from its top to its end, all in one process with one Ray.

python -m tests.support.snippets README.md docs/index.md …
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[str]:
    """Return the Python examples of a page, each after as many empty lines that its line numbers are the page's."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, found.start("code")) + found["code"] for found in _FENCE.finditer(text)
    ]


def run(page: Path) -> None:
    """Run a page as a user would type it: what one example defines, the next ones see."""
    namespace = {"__name__": "__main__"}  # functions of it travel to workers by value
    for example in examples(page):
        # The code is the project's own documentation.
        exec(compile(example, str(page), "exec", dont_inherit=True), namespace)


def main(pages: list[str]) -> int:
    """Run pages; return how many failed."""
    failed = 0
    for name in pages:
        started = time.monotonic()
        try:
            run(Path(name))
        except Exception:  # noqa: BLE001 - a page's fault must not hide those of the next
            traceback.print_exc()
            failed += 1
            print(f"FAILED {name}", flush=True)
        else:
            print(f"ran {name} in {time.monotonic() - started:.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
