"""What an experiment shows in the terminal: a live table, status lines in a pipe, the final table.

Owns no state of the experiment: it reads trials and forgets them. `verbose=0` prints nothing at
all. Output that cannot be written (a closed pipe, a lost terminal) ends the output, never the experiment.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tune_core.logger.failures import failure_lines, failures_of
from tune_core.logger.rows import user_metrics
from tune_core.metrics import flatten
from tune_core.progress_reporter.reporters import CLIReporter, ProgressReporter
from tune_core.progress_reporter.terminal import (
    Row,
    Snapshot,
    View,
    new_console,
    open_view,
    print_lines,
    print_table,
)
from tune_core.ranking import Objective, Standings
from tune_core.text import assignments, short
from tune_core.trial import Status, Trial

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)

_LIVE_ROWS = 20
_FINAL_ROWS = 100
_WAITING_LINES = 3
#: Metrics in the line about one report.
_REPORT_METRICS = 6
#: Part of the loop's time that may go into watching the trials, however many there are.
_SHARE = 0.05


class ProgressDisplay:
    """Shows how an experiment is going, in whatever its output is: terminal, notebook, pipe, file.

    `update` may be called as often as the loop turns: it looks at the trials four times a second at
    most, less often if there are so many that this would cost more than a twentieth of the time.
    Works in any thread. As a context manager it gives the terminal back, whatever is raised.

    Args:
        standings: Who is best, and by what; None: nothing is compared.
        reporter: Shows the trials instead of the live view and the table; None: these do.
        verbose: 0 prints nothing. 1 shows a live table (in a pipe: a line every 30 s) and a final
            table. 2 prints a line for each report besides.
        console: rich console to print to; None: the standard output.

    Example:
        >>> with ProgressDisplay(Standings(Objective("loss", "min")), verbose=0) as progress:
        ...     progress.start("my_experiment", "s3://bucket/experiments/my_experiment")
        ...     progress.finish([], "every trial is finished")

    Source: differs from Ray Tune 2.60: `verbose=0` is silent.
    """

    def __init__(
        self,
        standings: Standings | None = None,
        verbose: int = 1,
        reporter: ProgressReporter | None = None,
        *,
        console: Console | None = None,
    ) -> None:
        self._digest = _Digest(standings or Standings(Objective()))
        self._verbose = verbose
        self._reporter = reporter
        self._console = console
        self._storage_url = ""
        self._view: View | None = None
        self._due_at: float | None = None
        self._is_broken = False

    def start(self, name: str, storage_url: str, ui_url: str | None = None, total: int | None = None) -> None:
        """Print what runs and where to look at it, and begin the live view.

        Args:
            name: The experiment's name.
            storage_url: Where its results are, without credentials.
            ui_url: Where to watch it; None: nowhere.
            total: Number of trials to come; None: not known.
        """
        self._digest.total, self._storage_url = total, storage_url
        if not self._prints:
            return
        lines = [f"experiment {name}", f"  storage  {storage_url}"]
        self._print_lines([*lines, f"  watch    {ui_url}"] if ui_url else lines)
        reporter = self._reporter
        if reporter is not None:
            objective = self._digest.standings.objective
            if isinstance(reporter, CLIReporter):
                reporter.rank_by(self._digest.standings)
            metric, mode = objective.plain_metric, objective.plain_mode
            self._call(lambda: reporter.setup(time.time(), total, metric, mode))
        else:
            self._guarded(self._open_view)

    def expect(self, total: int | None) -> None:
        """Take note that there will be another number of trials; None: not known."""
        self._digest.total = total

    def update(self, trials: Sequence[Trial], waiting: Mapping[str, str], now: float) -> None:
        """Show how far the trials are, if it is time to.

        Args:
            trials: All of them, in creation order.
            waiting: Trial id to the reason why it cannot start yet.
            now: Seconds, on any clock that does not go back.
        """
        if self._reporter is not None:
            self._ask(trials, done=False)
            return
        view = self._view
        if view is None or not self._prints:
            return
        if self._due_at is None:
            self._due_at = now if view.is_eager else now + view.interval_s
        if now < self._due_at:
            return
        began = time.perf_counter()
        snapshot = self._digest.snapshot(trials, waiting)
        self._guarded(lambda: view.show(snapshot))
        self._due_at = now + max(view.interval_s, (time.perf_counter() - began) / _SHARE)

    def report(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """Print one line about one report, if `verbose` is at least 2."""
        if self._prints and self._verbose >= 2:
            self._print_lines([self._digest.report_line(trial, row)])

    def message(self, text: str) -> None:
        """Print a text, above the live view if there is one."""
        if self._prints:
            self._print_lines(text.splitlines())

    def finish(self, trials: Sequence[Trial], reason: str) -> None:
        """End the live view; print the table of all trials, why some failed, and the best one.

        Args:
            trials: All of them, in creation order.
            reason: Why the experiment ended.
        """
        self.close()
        if not self._prints:
            return
        snapshot = self._digest.final(trials)
        if self._reporter is not None:
            self._ask(trials, done=True)
        elif snapshot.rows:
            self._guarded(
                lambda: print_table(self._writer, snapshot, self._digest.standings.objective.columns)
            )
        more = f"… and {snapshot.omitted} more trials" if snapshot.omitted and not self._reporter else ""
        failures = failure_lines(failures_of(trials), self._storage_url)
        ending = f"{snapshot.summary}; {reason}"
        self._print_lines(filter(None, (more, *failures, snapshot.best, ending)))

    def close(self) -> None:
        """End the live view and give the terminal back; harmless if there is none."""
        view, self._view = self._view, None
        if view is not None:
            self._guarded(view.close)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _prints(self) -> bool:
        return self._verbose > 0 and not self._is_broken

    @property
    def _writer(self) -> Console:
        if self._console is None:
            self._console = new_console()
        return self._console

    def _ask(self, trials: Sequence[Trial], *, done: bool) -> None:
        """Let the user's reporter show the trials, if it says that it is time to."""
        reporter = self._reporter
        if reporter is None or not self._prints:
            return

        def show() -> None:
            if reporter.should_report(trials, done):
                reporter.report(trials, done)

        self._call(show)

    def _call(self, action: Callable[[], None]) -> None:
        """Run the user's code: what it raises ends the output."""
        try:
            action()
        except Exception:
            self._is_broken = True
            log.exception("the experiment goes on without its progress_reporter, which failed")

    def _open_view(self) -> None:
        self._view = open_view(self._writer, self._digest.standings.objective.columns)

    def _print_lines(self, lines: Iterable[str]) -> None:
        self._guarded(lambda: print_lines(self._writer, lines))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run an action that writes; a place that cannot be written to any more ends the output."""
        try:
            action()
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            self._is_broken = True
            log.warning("the experiment goes on without terminal output: %r", error)


class _Digest:
    """Turns trials into the few short texts that are shown."""

    def __init__(self, standings: Standings) -> None:
        self.standings = standings
        self.metrics = standings.objective.names
        self.total: int | None = None
        self._varied = _Varied()

    def snapshot(self, trials: Sequence[Trial], waiting: Mapping[str, str]) -> Snapshot:
        """Return what the live view shows: running trials, then the best of the others."""
        running = [n for n, trial in enumerate(trials) if trial.status is Status.RUNNING][:_LIVE_ROWS]
        others = (n for n, trial in enumerate(trials) if trial.status is not Status.RUNNING)
        room = _LIVE_ROWS - len(running)
        if not self.metrics:
            leading = list(deque(others, room))  # the newest
        else:
            key = self.standings.keys()
            leading = heapq.nsmallest(room, others, key=lambda n: key(trials[n]))
        lines = [
            f"waiting: {trial_id}: {reason}" for trial_id, reason in islice(waiting.items(), _WAITING_LINES)
        ]
        if len(waiting) > _WAITING_LINES:
            lines.append(f"waiting: {len(waiting) - _WAITING_LINES} more")
        return self._snapshot(trials, running + leading, tuple(lines))

    def final(self, trials: Sequence[Trial]) -> Snapshot:
        """Return what is left to read: every trial, up to a number, the best first."""
        key = self.standings.keys()
        order = sorted(range(len(trials)), key=lambda n: key(trials[n]))
        return self._snapshot(trials, order[:_FINAL_ROWS])

    def report_line(self, trial: Trial, row: Mapping[str, Any]) -> str:
        """Return one line about one report, its most important metric first."""
        metrics = flatten(user_metrics(row))
        names = sorted(metrics, key=lambda name: name not in self.metrics)[:_REPORT_METRICS]
        more = " …" if len(metrics) > len(names) else ""
        return f"{trial.trial_id} iteration {row.get('training_iteration', '?')}: {assignments(metrics, names)}{more}"

    def _snapshot(self, trials: Sequence[Trial], shown: list[int], waiting: tuple[str, ...] = ()) -> Snapshot:
        self._varied.add_new(trials)
        return Snapshot(
            summary=self._summary(trials),
            rows=tuple(self._row(trials[n]) for n in shown),
            omitted=len(trials) - len(shown),
            best=self._best(),
            waiting=waiting,
        )

    def _summary(self, trials: Sequence[Trial]) -> str:
        counts = Counter([trial.status for trial in trials])
        parts = [f"{counts[status]} {status.lower()}" for status in Status if counts[status]]
        of_total = f" of {self.total}" if self.total is not None and self.total != len(trials) else ""
        noun = "trial" if len(trials) == 1 and not of_total else "trials"
        return f"{len(trials)}{of_total} {noun}" + (f": {', '.join(parts)}" if parts else "")

    def _best(self) -> str:
        if self.standings.objective.is_several:
            return front_line(self.standings)
        best = self.standings.best
        if best is None:
            return ""
        value = short(self.standings.score(best), 6)
        said, config = self.standings.objective.said, self._varied.text(best.config)
        return f"best: {best.trial_id} {self.metrics[0]}={value} ({said}) {config}".rstrip()

    def _row(self, trial: Trial) -> Row:
        seconds = trial.last_row.get("time_total_s")
        scores = self.standings.scores(trial) if self.metrics else ()
        return Row(
            trial_id=trial.trial_id,
            status=str(trial.status),
            iteration=str(trial.iteration) if trial.last_row else "",
            seconds=f"{seconds:.1f}" if isinstance(seconds, Real) else "",
            scores=tuple(short(score, 6) for score in scores),
            params=self._varied.text(trial.config),
            error=short(trial.error, width=100),
        )


class _Varied:
    """Which parameters differ between trials; looks at each trial once."""

    def __init__(self) -> None:
        self._number = 0
        self._first: dict[str, str] = {}
        self._names: list[str] = []

    def add_new(self, trials: Sequence[Trial]) -> None:
        for trial in trials[self._number :]:
            values = flatten(trial.config)
            for name in values:
                text = assignments(values, [name])
                known = self._first.setdefault(name, text if self._number == 0 else "")
                if known != text and name not in self._names:
                    self._names.append(name)
            self._number += 1

    def text(self, config: Mapping[str, Any]) -> str:
        """Return `lr=0.1 width=64`; of a single trial, every parameter."""
        values = flatten(config)
        names = self._names if self._number > 1 else list(values)
        return assignments(values, names)


def front_line(standings: Standings) -> str:
    """Return how many trials no other dominates, and the best by each metric; "" of one metric, or without any.

    Example:
        >>> standings = Standings(Objective(["acc", "ms"], ["max", "min"]))
        >>> standings.note(Trial("a", 0, {}), 1, {"acc": 0.9, "ms": 20})
        True
        >>> front_line(standings)
        'Pareto front: 1 of 1 trials; best acc a=0.9, ms a=20 (last report)'
    """
    parts, front = standings.parts, standings.front
    found = [(part, part.best) for part in parts if part.best is not None]
    if not standings.objective.is_several or not found:
        return ""
    best = [f"{part.objective.metric} {trial.trial_id}={short(part.best_score, 6)}" for part, trial in found]
    said = f"{len(front)} of {standings.num_trials} trials"
    if standings.num_lacking:
        said += f", {standings.num_lacking} without a finite number for each metric"
    said += f", {standings.num_beyond} beyond the constraints" if standings.num_beyond else ""
    return f"Pareto front: {said}; best {', '.join(best)} ({standings.objective.said})"
