"""What a command has found out, for programs and for people.

Owns how an answer is printed: `--json` prints its document, otherwise a view of the same document
is drawn, so that a person sees nothing that a program cannot have. rich is imported when a view is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from tune_core.encoding import dumps_row
from tune_core.masking import masked
from tune_core.text import printable, short

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Columns of a pipe or a file, unless the environment variable COLUMNS says otherwise.
_PIPE_WIDTH = 140
#: Characters of an error: it may hold what others have written.
_ERROR_WIDTH = 4000


class ExitCode(IntEnum):
    """What the shell gets."""

    #: It was done; an experiment that was run has come to its end, with at least one trial that ended well.
    OK = 0
    #: It could not be done, or was refused; the experiment failed; a check of `doctor` failed.
    FAILED = 1
    #: What was given cannot work: unknown options, a wrong file, values that are refused.
    USAGE = 2
    #: Ctrl-C, or SIGTERM: the experiment can go on.
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command returns.

    Attributes:
        document: All of it, as JSON's types; other objects are written as their text.
        view: Makes what a person sees out of the document: lines of text, or what rich can draw.
        exit_code: What the shell gets.
    """

    document: dict[str, Any]
    view: Callable[[dict[str, Any]], Iterable[RenderableType]]
    exit_code: ExitCode = ExitCode.OK


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Output:
    """Options that every command has."""

    #: Read by `tune_core.cli.main`.
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document instead of tables.")] = False


def to_json(document: Mapping[str, Any]) -> str:
    """Return a document as JSON that every parser takes: NaN and infinities are null.

    Example:
        >>> print(to_json({"loss": float("nan"), "trials": 2}))
        {
          "loss": null,
          "trials": 2
        }
    """
    strict = json.loads(dumps_row(document), parse_constant=lambda _: None)
    return json.dumps(strict, indent=2, ensure_ascii=True)


def show(answer: Answer, stream: TextIO, *, as_json: bool) -> None:
    """Print an answer.

    Args:
        answer: What a command returned.
        stream: Where to.
        as_json: The document, instead of its view.
    """
    if as_json:
        stream.write(to_json(answer.document) + "\n")
        stream.flush()
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False, emoji=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    for part in answer.view(answer.document):
        if isinstance(part, str):
            # Words are wrapped by the terminal alone, so that paths and URLs can be copied.
            console.print("\n".join(map(printable, part.split("\n"))), soft_wrap=True)
        else:
            console.print(part)


def refuse(error: BaseException, message: str, stream: TextIO, *, as_json: bool) -> None:
    """Say in one line on stderr why there is no answer; with `--json` in a document, too."""
    message = masked(message)  # what was typed may be quoted in it
    print(f"prefect-tune: {short(message, width=_ERROR_WIDTH)}", file=sys.stderr)  # noqa: T201 - what it is for
    if as_json:
        stream.write(to_json({"error": {"type": type(error).__name__, "message": message}}) + "\n")
        stream.flush()
