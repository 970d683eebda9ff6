"""One attempt at a trial, as its trainable sees it.

A `Session` turns metrics into a report row, commits the checkpoint before the row is sent,
and stops the trainable when it is told to. It keeps the rows that the driver has not yet
journaled, so that a commit marker can carry them. It knows the driver only as an `Uplink`.
A report counts once it is in that list, which is one step: an exception that a signal handler
or another thread raises comes before it, and nothing has happened, or after it, and the row is sent.
Uploads in the background: docs/design/007-asynchronous-checkpoints.md.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from tune_core.errors import CheckpointError, MetricMissing, NotInTrial
from tune_core.metrics import ORIGIN, lookup, validate_metrics
from tune_core.reasons import reason_text
from tune_core.states import Decision
from tune_core.stopper import DictStopper
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import staged_copy
from tune_core.storage.filesystems import brief
from tune_core.training.attempt_spec import AttemptSpec
from tune_core.training.autofill import Counters, Snapshot
from tune_core.training.send_queue import SendQueue, Upload
from tune_core.training.uplink import Report, Uplink
from tune_core.trial import checkpoint_name
from tune_core.validation import shorten, suggestion

#: Rows that may be on their way before `report` waits for the journal: bounds the memory of
#: a trial that reports faster than its storage takes segments.
WINDOW = 8192

T = TypeVar("T")

logger = logging.getLogger(__name__)


class StopTrial(SystemExit):
    """Raised out of `report` to end the trainable cleanly: its `finally` blocks run."""


#: What an upload in the background comes to.
_Uploaded = tuple[Report, CheckpointError | None]


class _HandedOver(NamedTuple):
    """A report that counts.

    Attributes:
        said: What goes to the driver, at once or after an upload.
        counters: As they are with it.
    """

    iteration: int
    row: dict[str, Any]
    said: Report | Upload[Report]
    counters: Snapshot


class Session:
    """One attempt at a trial, as its trainable sees it.

    Args:
        spec: What the driver ordered.
        uplink: The way to the driver.
        takes_reports: False for a trainable class, whose rows come from `step`: there `tune.report`
            warns and does nothing.
        wall_clock: Seconds since the epoch.
        clock: Monotonic seconds.

    Attributes:
        trial_dir: The working directory of the trial on this node.
        metric_missing: Set when a report lacked the metric that the experiment is tuned for.
        stopped_by: Why the trial was stopped: "done", or see `Uplink.stop_cause`; None while it runs.
    """

    def __init__(
        self,
        spec: AttemptSpec,
        uplink: Uplink,
        *,
        takes_reports: bool = True,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.trial_dir = ""
        self.metric_missing: MetricMissing | None = None
        self.stopped_by: str | None = None
        self.takes_reports = takes_reports
        self._refused: set[str] = set()
        self._uplink = uplink
        self._send_queue: SendQueue[Report] = SendQueue(uplink.send, uplink.keep)
        self._lock = threading.RLock()
        self._counters = Counters(spec.iteration, spec.totals, wall_clock=wall_clock, clock=clock)
        self._is_reporting = self._has_ended = False
        self._process = os.getpid()
        self._begun = self._counters.snapshot()
        #: What the driver may not have journaled, and the latest in any case: it says what counts.
        self._handed_over: deque[_HandedOver] = deque()
        self._iteration_sent = 0
        self._saved_iteration = spec.iteration
        self._next_index = spec.highest_index + 1
        self._kept: dict[Path, tuple[int, int]] = {}
        self._stop_rules = DictStopper(spec.stop)
        self._heard_rules: dict[str, float] | None = None
        self._checkpoint = None
        if spec.checkpoint is not None:
            source = spec.checkpoint_dirname or spec.dirname
            self._checkpoint = spec.storage.checkpoint(source, spec.checkpoint)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest committed checkpoint of the trial: restored from, or reported since."""
        return self._checkpoint

    @property
    def iteration(self) -> int:
        """`training_iteration` of the latest report."""
        return self._counted.iteration

    @property
    def _counted(self) -> Snapshot:
        return self._handed_over[-1].counters if self._handed_over else self._begun

    @property
    def is_told_to_save(self) -> bool:
        """Whether a callback has asked, by `result["should_checkpoint"]`, that the latest report be saved."""
        return self.spec.may_be_told_to_save and self._uplink.wants_save and self.has_unsaved_progress

    @property
    def has_unsaved_progress(self) -> bool:
        """Whether there was a report since the newest checkpoint of this attempt, or since its start."""
        return self.iteration > self._saved_iteration

    def restart_clock(self) -> None:
        """Start measuring the first iteration now, when the trainable is about to run."""
        self._counters.restart_clock()
        self._begun = self._counters.snapshot()

    def end(self) -> None:
        """Take no more reports; when this returns, none is under way."""
        if os.getpid() == self._process:
            with self._lock:
                self._has_ended = True

    def report(self, metrics: Mapping[str, Any], checkpoint: Checkpoint | None = None) -> None:
        """See `tune_core.report`."""
        if os.getpid() != self._process:  # first: another thread may have held the lock when it was forked
            raise NotInTrial(
                f"report was called in process {os.getpid()}, which was forked from that of trial "
                f"{self.spec.trial_id}, {self._process}: only that one reports. Send what the child has to say "
                "there, by a multiprocessing.Queue for example, or start it with the method 'spawn' and return "
                "its results"
            )
        with self._lock:
            self._begin_report()
            try:
                self._is_reporting = True
                self.check_stop()
                user_metrics = validate_metrics(metrics)
                _require_checkpoint(checkpoint)
                row = self._resolve_done(self._counters.fill(user_metrics))
                self._send(row, self._commit(checkpoint, row))
            finally:
                self._is_reporting = False

    def _begin_report(self) -> None:
        """Count on from the latest report that was handed over: what others have counted came to nothing.

        Raises:
            NotInTrial: The attempt is over, and a thread of it is not.
            StopTrial: The same, of a trial that was stopped.
            RuntimeError: A signal handler has interrupted a report, and makes one of its own.
        """
        if self._has_ended:
            if self.stopped_by is not None:  # so that its threads end without a word, as it did
                self._stop(self.stopped_by)
            raise NotInTrial(
                f"trial {self.spec.trial_id} has ended, and this thread still reports to it: end threads before "
                "the trainable returns"
            )
        if self._is_reporting:
            raise RuntimeError(
                "report was called inside of report, by a signal handler that interrupted it: note in the "
                "handler what is to be reported, and report it from the training loop"
            )
        counted = self._counted
        self._counters.put_back(counted)
        if self._iteration_sent != counted.iteration:
            self._hand_over()

    def check_stop(self) -> None:
        """Return if the trial may go on.

        Raises:
            StopTrial: It was told to stop.
        """
        with self._send_queue.lock:
            if self.stopped_by is not None or self._uplink.poll():
                self._stop(self._uplink.stop_cause or "stop")

    def row_of(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row for what `Trainable.train` returned; its `done` says whether a stop rule was hit.

        Raises:
            InvalidMetric: Something in it cannot be reported, see `validate_metrics`.
        """
        # The driver knows whose it is and where it was made, so rows do not say it.
        kept = {name: value for name, value in result.items() if name not in ORIGIN}
        kept["timestamp"] = self._counters.timestamp(kept.get("timestamp"))
        with self._send_queue.lock:
            self._uplink.poll()  # a step takes long: the rules may have changed meanwhile
        return self._resolve_done(validate_metrics(kept))

    def publish(self, row: dict[str, Any], checkpoint: Checkpoint | None = None) -> None:
        """Commit the checkpoint if there is one, send a row of `row_of`, and wait for the answer.

        The row is sent in any case: its trial has come as far as it says.

        Raises:
            StopTrial: The trial is over, or is to stop.
            MetricMissing: `TuneConfig(metric=…)` is not in the row; the row is kept.
            CheckpointError: The checkpoint cannot be stored; no row is sent.
        """
        with self._lock:
            self._begin_report()
            try:
                self._is_reporting = True
                # If no row is sent, its number stays free: rows in a marker are counted back from its own.
                self._counters.iteration += 1
                self._send(row, self._commit(checkpoint, row))
            finally:
                self._is_reporting = False

    def save(self, checkpoint: Checkpoint) -> None:
        """Commit a checkpoint after the report that it belongs to, the latest one, was sent.

        When this returns, the checkpoint is committed and the driver is told of it.

        Raises:
            CheckpointError: It cannot be stored.
        """
        with self._lock:
            self.finish_upload()
            last = self._handed_over[-1].row if self._handed_over else {}
            index = self._store(checkpoint, self._unjournaled_rows(), last, self.iteration)
            self._uplink.send_checkpoint(self.iteration, index)

    def finish_upload(self) -> None:
        """Wait until the latest checkpoint is committed, and all rows are on their way.

        Raises:
            CheckpointError: It could not be stored; this is said once.
        """
        self._hand_over()
        self._send_queue.wait()
        self._raise_failure()

    @contextmanager
    def finishing_upload(self) -> Iterator[None]:
        """Wait at the end of an attempt for what is uploaded; it fails with that, if not with something else."""
        try:
            yield
        except StopTrial:
            self.finish_upload()
            raise
        except BaseException:
            self._hand_over()
            self._send_queue.wait()
            if (failure := self._send_queue.take_failure()) is not None:
                logger.warning("%s, besides what follows", failure)
            raise
        self.finish_upload()

    def _raise_failure(self) -> None:
        failure = self._send_queue.take_failure()
        if failure is not None:
            raise failure

    def _send(self, row: dict[str, Any], commit: int | Upload[Report] | None) -> None:
        counters = self._counters.snapshot()
        iteration = counters.iteration
        index = commit if isinstance(commit, int) else None
        waits = self.spec.waits_for_answers if not row["done"] else self.spec.may_be_told_to_save
        report = Report(iteration, row, index, waits)
        said = commit if isinstance(commit, Upload) else report
        # The one step that nothing tears: from here on the report counts, and is sent whatever happens.
        self._handed_over.append(_HandedOver(iteration, row, said, counters))
        self._hand_over()
        if commit is not None and self.spec.keeps_artifacts == "always":
            self.keep_artifacts()
        self._require_metric(row)
        if row["done"]:
            if waits:
                self._uplink.wait_for_decision(iteration)
            self._stop("done")
        self._await_answer(report)

    def _hand_over(self) -> None:
        """Send the reports that count and were not sent; what interrupts this has them sent by the next call."""
        behind: list[_HandedOver] = []
        for each in reversed(self._handed_over):
            if each.iteration <= self._iteration_sent:
                break
            behind.append(each)
        while behind:
            each = behind.pop()
            self._send_queue.put(each.said)
            self._iteration_sent = each.iteration

    def _await_answer(self, report: Report) -> None:
        if report.wants_decision:
            decision = self._uplink.wait_for_decision(report.iteration)
            if decision is not Decision.CONTINUE:
                told = self._uplink.stop_cause if decision is Decision.STOP else None
                self._stop(told or str(decision))
        self._forget_journaled()
        if len(self._handed_over) >= WINDOW:
            self._send_queue.wait()  # what is held back is not on its way to the journal
            self._uplink.wait_for_journal(self._handed_over[WINDOW // 2].iteration)
            self._forget_journaled()

    def _forget_journaled(self) -> None:
        reports = self._handed_over
        while len(reports) > 1 and reports[0].iteration <= self._uplink.journaled:
            reports.popleft()

    def _unjournaled_rows(self) -> list[dict[str, Any]]:
        journaled = self._uplink.journaled
        return [each.row for each in self._handed_over if each.iteration > journaled]

    def _stop(self, cause: str) -> NoReturn:
        self.stopped_by = self.stopped_by or cause
        raise StopTrial(0)

    def refuse(self, name: str, instead: str) -> None:
        """Warn, once per attempt, that a function of the function API does nothing inside a class."""
        if name not in self._refused:
            self._refused.add(name)
            warnings.warn(f"`{name}` does nothing inside a Trainable class: {instead}.", stacklevel=3)

    @property
    def rule_met(self) -> str:
        """Which stop rule has ended the trial, in words; "" if none has."""
        if self.stopped_by != "done" or not self._handed_over:
            return ""
        rule = self._stop_rules.reached(self._handed_over[-1].row)
        return reason_text({"rule": rule}) if rule is not None else ""

    def keep_artifacts(self) -> None:
        """Copy files that are new or changed in the working directory to the trial's directory."""
        root = Path(self.trial_dir)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            stat = file.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if self._kept.get(file) != version:
                name = file.relative_to(root).as_posix()
                self.spec.storage.upload(file, f"{self.spec.dirname}/{name}")
                self._kept[file] = version

    def _resolve_done(self, row: dict[str, Any]) -> dict[str, Any]:
        rules = self._uplink.stop_rules
        if rules is not None and rules is not self._heard_rules:
            self._heard_rules, self._stop_rules = rules, DictStopper(rules)
        row["done"] = bool(row.get("done")) or self._stop_rules(self.spec.trial_id, row)
        row["checkpoint_dir_name"] = None
        return row

    def _commit(self, checkpoint: Checkpoint | None, row: dict[str, Any]) -> int | Upload[Report] | None:
        """Commit what comes with a row; return its index, or what commits a private copy of it in the background."""
        if checkpoint is None:
            self._raise_failure()
            return None
        self.finish_upload()
        row["should_checkpoint"] = True
        row["checkpoint_dir_name"] = checkpoint_name(self._next_index)
        rows, iteration = [*self._unjournaled_rows(), row], self._counters.iteration
        if self.spec.async_upload and not self.spec.waits_for_answers and not row["done"]:
            staged = _staged(checkpoint)
            if staged is not None:
                return Upload(partial(self._upload, staged, rows, iteration))
        index = self._store(checkpoint, rows, row, iteration)
        row["checkpoint_dir_name"] = checkpoint_name(index)
        return index

    def _upload(self, staged: Path, rows: list[dict[str, Any]], iteration: int) -> _Uploaded:
        """Commit a private copy, in a thread; return the report to send then, and what went wrong."""
        row, index, failure = rows[-1], None, None
        try:
            index = self._store(Checkpoint.from_directory(staged), rows, row, iteration)
        except BaseException as error:  # noqa: BLE001 - the next report raises it
            failure = CheckpointError(
                f"the checkpoint of iteration {iteration} was not stored: {brief(error)}"
            )
            failure.__cause__ = error
            del row["should_checkpoint"]
        row["checkpoint_dir_name"] = None if index is None else checkpoint_name(index)
        shutil.rmtree(staged, ignore_errors=True)
        return Report(iteration, row, index), failure

    def _store(
        self, checkpoint: Checkpoint, rows: list[dict[str, Any]], metrics: dict[str, Any], iteration: int
    ) -> int:
        marker = self.spec.storage.commit_checkpoint(
            self.spec.dirname,
            checkpoint,
            index=self._next_index,
            attempt_number=self.spec.attempt_number,
            iteration=iteration,
            rows=rows,
            metrics=metrics,
            previous=self._checkpoint,
        )
        self._next_index = marker.index + 1
        self._saved_iteration = iteration
        self._checkpoint = self.spec.storage.checkpoint(self.spec.dirname, marker.index)
        return marker.index

    def _require_metric(self, row: dict[str, Any]) -> None:
        wanted = self.spec.metric
        needed = [wanted] if isinstance(wanted, str) else wanted or []
        metric = next((name for name in needed if lookup(row, name) is None), None)
        if metric is None:
            return
        names = sorted(map(str, row))
        self.metric_missing = MetricMissing(
            f"metric {metric!r} is missing from the report of trial {self.spec.trial_id} (iteration "
            f"{self.iteration}); reported: {', '.join(names)}. TuneConfig(metric={wanted!r}) needs it: report it, "
            f"or change the metric{suggestion(metric, names)}"
        )
        raise self.metric_missing


def _staged(checkpoint: Checkpoint) -> Path | None:
    """Copy a directory to a private one; None if it has to be committed from where it is."""
    try:
        return staged_copy(checkpoint)
    except OSError as error:
        logger.warning(
            "a checkpoint is uploaded before report returns, since it cannot be copied to %s: %s "
            "(CheckpointConfig.async_upload needs room there for one checkpoint of each trial; TMPDIR moves it)",
            tempfile.gettempdir(),
            brief(error),
        )
        return None


def _require_checkpoint(checkpoint: Any) -> None:
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        message = f"checkpoint={shorten(checkpoint)}: report expects a tune_core.Checkpoint, such as "
        raise TypeError(message + "Checkpoint.from_directory(path)")
