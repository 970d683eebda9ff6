"""What a user says about failures: how often trials are tried again, with what, and when it is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tune_core.config.shown import shown
from tune_core.states import CAUSES
from tune_core.validation import Validator, has_names_as_keys, is_number, suggestion


@dataclass(repr=False)
class FailureConfig:
    """What happens when an attempt at a trial fails.

    Args:
        max_failures: How often a trial is tried again, from its latest checkpoint if there is
            one; 0 for never, -1 for ever.
        fail_fast: True ends the experiment with the first trial that fails; "raise" does so
            and raises the error out of `fit()`. Both need `max_failures=0`.
        max_infrastructure_failures: Beyond Ray Tune: how often a trial is tried again after it was lost with
            what it ran on (its node, its placement group, a process that Ray killed because memory ran out)
            or could not even begin, one time after the other without a new checkpoint; 0 for never, -1 for
            ever. Such losses are not counted in `max_failures`.
        on_corrupted_checkpoint: Beyond Ray Tune: what happens when the checkpoint that an attempt starts
            from is not what was committed (a file is missing, cut, or has other bytes). "fail": the
            attempt fails, which counts; "previous": the trial goes on from the checkpoint before that
            one, which does not count. Without one before it fails: no trial starts over unasked.
        max_failed_trials: Beyond Ray Tune: how many trials may fail for good, retries included, before the experiment
            is stopped: a number of at least 0, or, as a float between 0 and 1, a share of all trials, for which
            `num_samples` has to be known. None: any number. One more ends the experiment as `time_budget_s` does:
            trials that run are stopped, and the results so far are returned. Failures of runs before a resume count.
        resources_after: Beyond Ray Tune: what a trial is tried again with, by what it died of: factors for the
            amounts of its first bundle, such as `{"oom": {"memory": 2.0}}`. Causes are "oom" (Ray killed its process
            since memory ran out, or it raised a `MemoryError` or an `OutOfMemoryError` such as PyTorch's), "crashed"
            (its process died, by a bare SIGKILL too, which is also how Linux ends what takes too much memory),
            "timed_out", "lost" (with its node, say) and "error" (its code raised); "oom" comes before the others.
            Factors apply again after each such death. What the cluster cannot give is refused: the trial is tried
            again with what it had, and the log says so. How often is up to `max_failures` and
            `max_infrastructure_failures`.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> FailureConfig(max_failures=3)
        FailureConfig(max_failures=3)

    Source: as Ray Tune 2.60. Differs: there, a lost node is a failure like any other.
    """

    max_failures: int = 0
    fail_fast: bool | Literal["raise"] = False
    max_infrastructure_failures: int = field(default=16, kw_only=True)
    on_corrupted_checkpoint: Literal["fail", "previous"] = field(default="fail", kw_only=True)
    max_failed_trials: int | float | None = field(default=None, kw_only=True)
    resources_after: dict[str, dict[str, float]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        validator = Validator("FailureConfig")
        for name in ("max_failures", "max_infrastructure_failures"):
            validator.check_integer(name, getattr(self, name), minimum=-1, also=" (-1 for no end)")
        fail_fast: object = self.fail_fast
        if isinstance(fail_fast, str) and fail_fast.lower() == "raise":
            self.fail_fast = "raise"
        elif not isinstance(fail_fast, bool):
            validator.add("fail_fast", fail_fast, "expected True, False or 'raise'")
        if self.fail_fast and self.max_failures != 0:
            validator.add(
                "max_failures", self.max_failures, f"must be 0 with fail_fast={self.fail_fast!r}: choose one"
            )
        validator.check_choice("on_corrupted_checkpoint", self.on_corrupted_checkpoint, ("fail", "previous"))
        self._check_failed_trials(validator)
        self._check_resources_after(validator)
        validator.raise_any()

    def _check_failed_trials(self, validator: Validator) -> None:
        allowed: object = self.max_failed_trials
        if allowed is None:
            return
        is_share = isinstance(allowed, float) and 0 < allowed < 1
        if not is_share and (isinstance(allowed, bool) or not isinstance(allowed, int) or allowed < 0):
            expected = (
                "expected a number of trials of at least 0, a share between 0 and 1, or None for no limit"
            )
            validator.add("max_failed_trials", allowed, expected)
        elif self.fail_fast:
            text = f"fail_fast={self.fail_fast!r} ends the experiment with the first: choose one"
            validator.add("max_failed_trials", allowed, text)

    def _check_resources_after(self, validator: Validator) -> None:
        rules: object = self.resources_after
        if rules is None:
            return
        if not isinstance(rules, dict):
            validator.add(
                "resources_after", rules, 'expected a dict, such as {"oom": {"memory": 2.0}}, or None'
            )
            return
        for cause, factors in rules.items():
            if cause not in CAUSES:
                expected = (
                    f"expected causes of death, which are {', '.join(CAUSES)}{suggestion(cause, CAUSES)}"
                )
                validator.add("resources_after", {cause: factors}, expected)
            elif not has_names_as_keys(factors) or not factors:
                validator.add(
                    "resources_after", {cause: factors}, 'expected factors, such as {"memory": 2.0}'
                )
            else:
                self._check_factors(validator, cause, factors)

    def _check_factors(self, validator: Validator, cause: str, factors: dict[str, float]) -> None:
        for name, factor in factors.items():
            known = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}.get(name.lower(), name)
            if not is_number(factor) or factor <= 0:
                validator.add("resources_after", {cause: {name: factor}}, "expected a finite factor above 0")
            elif name != known:
                validator.add(
                    "resources_after", {cause: {name: factor}}, f"Ray knows no {name!r}: write {known!r}"
                )

    __repr__ = shown
