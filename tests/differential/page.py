"""Writes the table of docs/differences.md from what the scripts declare: `python -m tests.differential.page`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.differential.case import Difference, all_scripts
from tests.differential.reviewed import EVERYWHERE, REVIEWED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "differences.md"
BEGIN = "<!-- written by `python -m tests.differential.page`: change the declarations, not the table -->"
END = "<!-- end of what is written -->"


def all_differences() -> list[Difference]:
    """Return every deliberate difference once: those that scripts show first, in the scripts' order."""
    declared = [difference for script in all_scripts().values() for difference in script.differs.values()]
    return list(dict.fromkeys([*declared, *EVERYWHERE.values(), *REVIEWED]))


def table() -> str:
    """Return the table, in Markdown."""
    rows = [f"| {one.what} | {one.here} | {one.why} |" for one in all_differences()]
    return "\n".join(["| what | here | why |", "|---|---|---|", *rows])


def renewed(page: str) -> str:
    """Return a page with its table replaced.

    Raises:
        ValueError: The page has no place for it.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page has no place for the table: one {BEGIN!r} and {END!r} are needed")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
