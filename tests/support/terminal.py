"""Runs a command as somebody does who sits at a terminal: in the foreground of one of 80 columns, which it may read.

`python -m tests.support.terminal COMMAND…` writes to standard output what the terminal shows; what is written to its
standard input is typed.
"""

from __future__ import annotations

import os
import pty
import sys

_SIZED = 'stty rows 24 cols 80; exec "$@"'


def main(command: list[str]) -> int:
    """Run a command in a pseudo-terminal of its own; return its exit status."""
    return os.waitstatus_to_exitcode(pty.spawn(["/bin/sh", "-c", _SIZED, "sh", *command]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
