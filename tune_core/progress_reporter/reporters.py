"""Progress as scripts of Ray Tune show it: reporters that they make, or write, themselves.

Owns which columns a table has and when it is printed. Never prints unless it is given to
`RunConfig(progress_reporter=…)`; without one, the experiment shows its own view.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from tune_core.init_args import RecordsArguments
from tune_core.logger.rows import user_metrics
from tune_core.metrics import flatten, lookup
from tune_core.progress_reporter.terminal import new_console
from tune_core.ranking import Objective, Standings
from tune_core.text import short
from tune_core.trial import Status, Trial
from tune_core.validation import Validator

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

#: Columns that every table has, unless it was told which ones.
_AUTOFILLED = {"training_iteration": "iter", "time_total_s": "total time (s)"}
_ORDER = (Status.RUNNING, Status.PAUSED, Status.PENDING, Status.TERMINATED, Status.ERROR)


class ProgressReporter(RecordsArguments, ABC):
    """Shows how an experiment is going; subclass it and write `should_report` and `report`.

    All methods are called in the experiment's loop, so they should be quick. What one of them raises
    is logged and ends the reports, not the experiment. With `verbose=0` none is called.

    Example:
        >>> class Ends(ProgressReporter):
        ...     def should_report(self, trials, done=False):
        ...         return done
        ...
        ...     def report(self, trials, done, *sys_info):
        ...         print(len(trials), "trials")
        >>> Ends().report([], True)
        0 trials

    Source: as Ray Tune 2.60.
    """

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what is known before the first trial. The default does nothing.

        Args:
            start_time: Seconds since the epoch.
            total_samples: Number of trials to come; None: not known.
            metric: `TuneConfig.metric`; a list if there are several.
            mode: `TuneConfig.mode`; likewise.
            **kwargs: What later versions tell in addition.
        """

    @abstractmethod
    def should_report(self, trials: Sequence[Trial], done: bool = False) -> bool:
        """Return whether `report` is to be called now; asked several times a second.

        Args:
            trials: All trials, for reading.
            done: Whether the experiment is over.
        """

    @abstractmethod
    def report(self, trials: Sequence[Trial], done: bool, *sys_info: str) -> None:
        """Show the progress.

        Args:
            trials: All trials, for reading.
            done: Whether the experiment is over: there will be no other report.
            *sys_info: Further lines to show.
        """


class CLIReporter(ProgressReporter):
    """Prints a table of the trials every few seconds, and at the end.

    Args:
        metric_columns: Metrics to show, nested ones as "a/b": a list, or a dict of metric to title.
            None: iteration, time, and the first few that were reported.
        parameter_columns: Parameters to show, likewise. None: all of them.
        total_samples: Number of trials to come; None: what the experiment knows.
        max_progress_rows: Trials in the table, at least 1.
        max_error_rows: Errors below it.
        max_column_length: Characters of a value or title, at least 4.
        max_report_frequency: Seconds between two reports.
        infer_limit: How many of the reported metrics are shown where `metric_columns` is None.
        print_intermediate_tables: Whether there is a table before the end; None: yes.
        metric: What the best trial is chosen by; None: what `TuneConfig` says, with several metrics the best by
            each, and how many trials no other dominates.
        mode: "min" or "max", likewise.
        sort_by_metric: Whether trials of one status are in the order of the metric, best first.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> reporter = CLIReporter(metric_columns={"loss": "error"}, max_progress_rows=5)
        >>> reporter.add_metric_column("eval/accuracy", "accuracy")
        >>> reporter.should_report([], done=True)
        True

    Source: as Ray Tune 2.60. Differs: the table looks as this library's own.
    """

    def __init__(
        self,
        *,
        metric_columns: Sequence[str] | Mapping[str, str] | None = None,
        parameter_columns: Sequence[str] | Mapping[str, str] | None = None,
        total_samples: int | None = None,
        max_progress_rows: int = 20,
        max_error_rows: int = 20,
        max_column_length: int = 20,
        max_report_frequency: float = 5,
        infer_limit: int = 3,
        print_intermediate_tables: bool | None = None,
        metric: str | None = None,
        mode: str | None = None,
        sort_by_metric: bool = False,
    ) -> None:
        validator = Validator(type(self).__name__)
        self._metric_columns = _columns("metric_columns", metric_columns, validator)
        self._parameter_columns = _columns("parameter_columns", parameter_columns, validator)
        validator.check_integer("max_progress_rows", max_progress_rows, minimum=1)
        validator.check_integer("max_error_rows", max_error_rows, minimum=0)
        validator.check_integer("max_column_length", max_column_length, minimum=4)
        validator.check_number("max_report_frequency", max_report_frequency, also=" seconds")
        validator.check_integer("infer_limit", infer_limit, minimum=0)
        if mode is not None:
            validator.check_choice("mode", mode, ("min", "max"))
        validator.raise_any()
        self._total = total_samples
        self._metric: str | list[str] | None = metric
        self._mode: str | list[str] | None = mode
        self._max_rows, self._max_errors, self._width = max_progress_rows, max_error_rows, max_column_length
        self._interval_s, self._infer_limit = max_report_frequency, infer_limit
        self._prints_tables = print_intermediate_tables is not False
        self._sorts = sort_by_metric
        self._standings: Standings | None = None
        self._console: Console | None = None
        self._due_at = 0.0

    def add_metric_column(self, metric: str, representation: str | None = None) -> None:
        """Show a metric, under this title."""
        self._metric_columns = {**(self._metric_columns or _AUTOFILLED), metric: representation or metric}

    def add_parameter_column(self, parameter: str, representation: str | None = None) -> None:
        """Show a parameter, under this title."""
        self._parameter_columns = {**(self._parameter_columns or {}), parameter: representation or parameter}

    def rank_by(self, standings: Standings) -> None:
        """Rank trials as the experiment does, unless this reporter has a metric or mode of its own."""
        own, objective = Objective(self._metric, self._mode), standings.objective
        if own.metric in (None, objective.metric) and own.mode in (None, objective.mode):
            self._standings = standings

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take what was not given already; see `ProgressReporter.setup`."""
        self._total = self._total if self._total is not None else total_samples
        if not isinstance(metric, list) or not isinstance(mode, list):
            self._metric, self._mode = self._metric or metric, self._mode or mode
        elif self._metric is None and self._mode is None:
            self._metric, self._mode = metric, mode
        elif self._mode is None:
            self._mode = dict(zip(metric, mode, strict=True)).get(str(self._metric))

    def should_report(self, trials: Sequence[Trial], done: bool = False) -> bool:
        """Return whether it is time; always at the end."""
        now = time.monotonic()
        if not done and now < self._due_at:
            return False
        self._due_at = now + self._interval_s
        return True

    def report(self, trials: Sequence[Trial], done: bool, *sys_info: str) -> None:
        """Print the table."""
        if self._console is None:
            self._console = new_console()
        self._console.print(self._shown(trials, done, sys_info))

    def _shown(self, trials: Sequence[Trial], done: bool, sys_info: Sequence[str]) -> Group:
        from rich.console import Group
        from rich.text import Text

        counts = Counter(trial.status for trial in trials)
        parts = [f"{counts[status]} {status.lower()}" for status in _ORDER if counts[status]]
        of_total = f" of {self._total}" if self._total is not None and self._total != len(trials) else ""
        lines = [f"{len(trials)}{of_total} trials{': ' if parts else ''}{', '.join(parts)}", *sys_info]
        objective, scores = self._scores(trials)
        beyond = [bool(objective.violated(trial.last_row)) for trial in trials]
        kept = [trial for trial, is_beyond in zip(trials, beyond, strict=True) if not is_beyond]
        for number, part in enumerate(objective.parts):
            best = part.best_of((trial, scores[trial.trial_id][number]) for trial in kept)
            if best is not None:
                value = self._cell(scores[best.trial_id][number])
                lines.append(f"best: {best} {part.metric}={value} ({part.said})")
        if objective.is_several and (front := objective.front([*scores.values()], beyond)):
            lines.append(f"Pareto front: {len(front)} of {len(trials)} trials")
        tables: list[Table] = [self._table(trials)] if trials and (done or self._prints_tables) else []
        lines += [f"{trial}: {trial.error}" for trial in trials if trial.error][: self._max_errors]
        return Group(*tables, *(Text(line, overflow="fold") for line in lines))

    def _table(self, trials: Sequence[Trial]) -> Table:
        from rich.table import Table
        from rich.text import Text

        shown = self._ordered(trials)[: self._max_rows]
        configs = {trial.trial_id: flatten(trial.config) for trial in shown}
        metrics = self._metric_columns or self._inferred(shown)
        parameters = self._parameter_columns or {name: name for config in configs.values() for name in config}
        omitted = len(trials) - len(shown)
        table = Table(
            box=None,
            padding=(0, 2, 0, 0),
            caption=f"… and {omitted} more trials" if omitted else None,
            caption_justify="left",
        )
        for title in ("trial", "status", *parameters.values(), *metrics.values()):
            table.add_column(Text(self._cell(title)), no_wrap=True)
        for trial in shown:
            config = configs[trial.trial_id]
            cells = [str(trial), str(trial.status), *(self._cell(config.get(name)) for name in parameters)]
            cells += [self._cell(lookup(trial.last_row, name)) for name in metrics]
            table.add_row(*map(Text, cells))
        return table

    def _inferred(self, trials: Sequence[Trial]) -> dict[str, str]:
        """The columns for iteration and time, the metric, and the first few others that were reported."""
        reported: dict[str, str] = {name: name for name in Objective(self._metric, self._mode).names}
        for trial in trials:
            for name, value in flatten(user_metrics(trial.last_row)).items():
                if isinstance(value, Real) and len(reported) < self._infer_limit:
                    reported.setdefault(name, name)
        return {**_AUTOFILLED, **reported}

    def _ordered(self, trials: Sequence[Trial]) -> list[Trial]:
        objective, scores = self._scores(trials)
        beyond = [bool(objective.violated(trial.last_row)) for trial in trials]
        keys = dict(zip(scores, objective.keys([*scores.values()], beyond), strict=True))

        def key(trial: Trial) -> tuple[int, tuple[bool, float, float], int]:
            order = keys[trial.trial_id] if self._sorts else (False, 0.0, 0.0)
            return _ORDER.index(trial.status), order, trial.number

        return sorted(trials, key=key)

    def _scores(self, trials: Sequence[Trial]) -> tuple[Objective, dict[str, tuple[float | None, ...]]]:
        """What trials are compared by, and their scores by trial id; by a metric of its own, the last reports."""
        standings = self._standings
        if standings is not None:
            return standings.objective, {trial.trial_id: standings.scores(trial) for trial in trials}
        own = Objective(self._metric, self._mode)
        return own, {
            trial.trial_id: tuple(part.value(trial.last_row) for part in own.parts) for trial in trials
        }

    def _cell(self, value: object) -> str:
        return short(value, 6, self._width)


class JupyterNotebookReporter(CLIReporter):
    """Shows the table of `CLIReporter` in a notebook.

    Args:
        overwrite: Whether it is redrawn in its place; if not, each report follows the one before.
        **kwargs: As of `CLIReporter`.

    Raises:
        ConfigError: An argument cannot work.

    Example:
        >>> JupyterNotebookReporter(overwrite=True, max_progress_rows=5).should_report([])
        True

    Source: as Ray Tune 2.60.
    """

    def __init__(self, *, overwrite: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._overwrites = overwrite
        self._handle: Any = None

    def report(self, trials: Sequence[Trial], done: bool, *sys_info: str) -> None:
        """Draw the table; outside of a notebook, print it."""
        try:
            from IPython.display import display
        except ImportError:
            super().report(trials, done, *sys_info)
            return
        from rich.panel import Panel

        panel = Panel(self._shown(trials, done, sys_info), expand=False)
        if self._handle is None or not self._overwrites:
            self._handle = display(panel, display_id=True)
        else:
            self._handle.update(panel)


def _columns(
    name: str, given: Sequence[str] | Mapping[str, str] | None, validator: Validator
) -> dict[str, str] | None:
    columns: Any = given
    if not columns:
        return None
    if isinstance(columns, list | tuple):
        columns = {each: each for each in columns if isinstance(each, str)}
    is_dict = isinstance(columns, Mapping) and all(
        isinstance(part, str) for pair in columns.items() for part in pair
    )
    if not is_dict or (given is not None and len(columns) != len(given)):
        validator.add(name, given, "expected a list of names, or a dict of name to title")
        return None
    return dict(columns)
