"""The command line `prefect-tune`: what can be done with experiments from a shell.

A command reads what it is told, calls the library, and returns an `Answer`; it never prints by
itself. Importing this package imports neither Prefect nor Ray; a command's own module is imported
when the command is called.
"""

from tune_core.cli.app import main

__all__ = ["main"]
