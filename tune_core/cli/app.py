"""The entry point of `prefect-tune`: the list of its commands, and what becomes of their errors.

Owns exit codes and the two output streams: stdout has the answer alone, everything else goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from tune_core.cli.answer import Answer, ExitCode, refuse, show
from tune_core.errors import ConfigError, TrainableError, TuneError

#: Where each command is, and what `--help` says of it: their modules are imported when they are called.
COMMANDS = (
    ("run", "running:run", "Run the experiment that a YAML or JSON file describes."),
    ("resume", "running:resume", "Go on with an experiment that was interrupted, or whose driver died."),
    ("extend", "running:extend", "Go on with an experiment, with more samples or looser stop rules."),
    ("serve", "serving:serve", "Run an experiment again and again on this machine, on a schedule."),
    ("ls", "reading:ls", "List the experiments below a storage path."),
    ("show", "reading:show", "Show an experiment's trials, or one trial's reports."),
    ("compare", "comparing:compare", "Show experiments side by side: best trial, cost, what differs."),
    ("replay", "replaying:replay", "Say what another scheduler would have made of an experiment."),
    ("export", "exporting:export", "Write trials or reports as CSV, Parquet, an Optuna study, or HTML."),
    ("stop", "steering:stop", "Stop a running experiment cleanly."),
    ("steer", "steering:steer", "Pause, resume, stop or extend what is running."),
    ("doctor", "doctor:doctor", "Check versions, server, storage and Ray; say what to do."),
)

_EPILOGUE = (
    "Every command takes --json: one JSON document on stdout. Exit codes: 0 done, 1 failed or refused, "
    "2 wrong usage, 130 interrupted."
)


def new_app(called: str = "") -> App:
    """Return the application; none of its commands is imported yet.

    Args:
        called: The command that is going to be: its help is its own whole docstring.
    """
    app = App(
        name="prefect-tune",
        help="Tune hyperparameters: experiments are Prefect flow runs, trials run on Ray.",
        help_epilogue=_EPILOGUE,
        version=lambda: version("prefect-tune"),
        default_parameter=Parameter(negative_iterable=()),  # nobody wants --empty-stop
    )
    for name, place, text in COMMANDS:
        app.command(f"tune_core.cli.{place}", name=name, **({} if name == called else {"help": text}))
    automations = App(name="automations", help="Automations of the Prefect server that experiments lean on.")
    automations.command(
        "tune_core.cli.serving:install_automations",
        name="install",
        help="Have the server mark flow runs Crashed whose process is gone, or do what a file describes.",
    )
    app.command(automations)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: What follows `prefect-tune`; None: that of this process.

    Example:
        >>> main(["show"])  # with what is missing on stderr
        <ExitCode.USAGE: 2>
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    stdout, as_json = sys.stdout, "--json" in tokens
    with contextlib.redirect_stdout(sys.stderr if as_json else stdout):
        try:
            answer = _call(tokens)
            if answer is None:  # --help, --version
                return ExitCode.OK
            show(answer, stdout, as_json=as_json)
            return answer.exit_code
        except CycloptsError as error:
            refuse(error, f"{_one_line(error)} (prefect-tune --help)", stdout, as_json=as_json)
            return ExitCode.USAGE
        except (ConfigError, TrainableError) as error:
            refuse(error, str(error), stdout, as_json=as_json)
            return ExitCode.USAGE
        except TuneError as error:
            refuse(error, str(error), stdout, as_json=as_json)
            return ExitCode.FAILED
        except KeyboardInterrupt as error:
            refuse(error, "interrupted", stdout, as_json=as_json)
            return ExitCode.INTERRUPTED
        except BrokenPipeError:  # `| head` has seen enough; Python would complain once more as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
            return ExitCode.FAILED


def _call(tokens: list[str]) -> Answer | None:
    app = new_app(next((token for token in tokens if not token.startswith("-")), ""))
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    answer = command(*bound.args, **bound.kwargs)
    return answer if isinstance(answer, Answer) else None


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).split())
