"""Optuna's pruners behind one adapter: who is pruned, how a pruner is named, written down and refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import optuna
import pytest

import tune_core as tune
from tune_core.config import spec
from tune_core.errors import ConfigError
from tune_core.schedulers import OptunaPruner, create_scheduler
from tune_core.trial import Trial

#: Errors of five folds: of the first trial, of one that is as good, and of one that is worse in each.
FOLDS = ([0.30, 0.10, 0.20, 0.40, 0.25], [0.31, 0.09, 0.21, 0.39, 0.25], [0.50, 0.32, 0.44, 0.61, 0.47])


def a_pruner(pruner: Any = "median", options: dict[str, Any] | None = None, **given: Any) -> OptunaPruner:
    return OptunaPruner(pruner, options, **{"metric": "loss", "mode": "min", **given})


def run(scheduler: OptunaPruner, curves: Sequence[Sequence[Any]]) -> list[int]:
    """Train one trial after the other; return in which step each was stopped, or after how many it was complete."""
    ended = []
    for number, curve in enumerate(curves):
        trial, row = Trial(f"t{number}", number, {}), dict[str, Any]()
        scheduler.on_trial_add([], trial)
        for step, loss in enumerate(curve):
            row = {"training_iteration": step, "loss": loss}
            if scheduler.on_trial_result([], trial, row) == "STOP":
                ended.append(step)
                break
        else:
            ended.append(len(curve))
        scheduler.on_trial_complete([], trial, row)
    return ended


def by_optuna(pruner: Any, curves: Sequence[Sequence[float]], direction: str) -> list[int]:
    """The same with Optuna itself."""
    study = optuna.create_study(study_name="prefect-tune", pruner=pruner, direction=direction)
    ended = []
    for curve in curves:
        trial = study.ask()
        for step, loss in enumerate(curve):
            trial.report(loss, step)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                ended.append(step)
                break
        else:
            study.tell(trial, curve[-1])
            ended.append(len(curve))
    return ended


CURVES = [[((7 * trial + 3 * step) % 11) / 11 + 1 / (step + 1) for step in range(12)] for trial in range(15)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("median", {"n_startup_trials": 2}),
        ("percentile", {"percentile": 25.0, "n_startup_trials": 1, "n_warmup_steps": 2}),
        ("hyperband", {"min_resource": 1, "max_resource": 12, "reduction_factor": 2}),
        ("successive_halving", {"reduction_factor": 2}),
        ("threshold", {"upper": 1.6, "lower": 0.2}),
        (
            "patient",
            {"wrapped_pruner": {"pruner": "median", "options": {"n_startup_trials": 1}}, "patience": 2},
        ),
        ("patient", {"wrapped_pruner": None, "patience": 1}),
        ("nop", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_it_prunes_what_optuna_prunes(name: str, options: dict[str, Any], mode: str) -> None:
    scheduler = a_pruner(name, options, mode=mode)
    given = dict(options)
    if given.get("wrapped_pruner"):
        given["wrapped_pruner"] = optuna.pruners.MedianPruner(n_startup_trials=1)
    classes: dict[str, Any] = {
        "median": optuna.pruners.MedianPruner,
        "percentile": optuna.pruners.PercentilePruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
        "threshold": optuna.pruners.ThresholdPruner,
        "patient": optuna.pruners.PatientPruner,
        "nop": optuna.pruners.NopPruner,
    }
    direction = {"min": "minimize", "max": "maximize"}[mode]

    expected = by_optuna(classes[name](**given), CURVES, direction)

    assert run(scheduler, CURVES) == expected
    assert mode == "max" or (set(expected) == {12}) == (name == "nop"), "nobody is pruned"


def test_wilcoxon_stops_a_configuration_that_is_worse_fold_by_fold() -> None:
    """By hand: five differences, all of them worse, have p = 1/2^5 = 0.03; four have 0.06, and three 0.13."""
    assert run(a_pruner("wilcoxon", {"p_threshold": 0.1}), FOLDS) == [5, 5, 3]
    assert run(a_pruner("WilcoxonPruner", {"p_threshold": 0.04}), FOLDS) == [5, 5, 4]


def test_with_wilcoxon_the_best_is_who_is_best_on_average_and_not_in_the_last_fold() -> None:
    good, lucky = [0.1, 0.1, 0.1, 0.1, 0.5], [0.4, 0.4, 0.4, 0.4, 0.2]
    scheduler = a_pruner("wilcoxon", {"n_startup_steps": 6})
    run(scheduler, [good, lucky])

    assert scheduler._study is not None
    assert scheduler._study.best_trial.number == 0
    assert scheduler._study.best_value == pytest.approx(0.18)


def test_optuna_says_nothing_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run(a_pruner(), FOLDS)

    assert capsys.readouterr() == ("", "")


def test_the_reason_names_pruner_step_and_value() -> None:
    scheduler, trial = a_pruner("threshold", {"upper": 1.0}), Trial("t0", 0, {})

    assert scheduler.on_trial_result([], trial, {"training_iteration": 3.7, "loss": 2.0}) == "STOP"
    assert scheduler.decision_reason(trial) == {"pruner": "ThresholdPruner", "step": 3, "value": 2.0}
    assert scheduler.debug_string() == "Using Optuna's ThresholdPruner: num_stopped=1."


@pytest.mark.parametrize(
    "row",
    [{}, {"loss": 9.0}, {"training_iteration": 1}, {"training_iteration": -1, "loss": 9.0},
     {"training_iteration": float("inf"), "loss": 9.0}, {"training_iteration": 1, "loss": "high"}],
)  # fmt: skip
def test_reports_that_have_no_step_or_value_are_not_decided_on(row: dict[str, Any]) -> None:
    assert a_pruner("threshold", {"upper": 1.0}).on_trial_result([], Trial("t0", 0, {}), row) == "CONTINUE"


def test_a_step_that_an_attempt_makes_again_counts_once() -> None:
    scheduler, trial = a_pruner("threshold", {"upper": 1.0}), Trial("t0", 0, {})
    for step, loss in ((1, 0.5), (2, 0.6), (1, 9.0)):
        assert scheduler.on_trial_result([], trial, {"training_iteration": step, "loss": loss}) == "CONTINUE"

    assert scheduler.on_trial_result([], trial, {"training_iteration": 3, "loss": 9.0}) == "STOP"


def test_trials_that_failed_or_have_no_number_do_not_count_and_one_may_go_on_after_its_end() -> None:
    scheduler, trials = a_pruner(), [Trial(f"t{number}", number, {}) for number in range(3)]
    for trial in trials:
        scheduler.on_trial_add([], trial)
    scheduler.on_trial_error([], trials[0])
    scheduler.on_trial_complete([], trials[1], {"training_iteration": 1, "loss": float("nan")})
    scheduler.on_trial_complete([], trials[2], {"training_iteration": 1, "loss": 0.5})
    scheduler.on_trial_add([], trials[2])
    scheduler.on_trial_complete([], trials[2], {"training_iteration": 2, "loss": 0.25})

    assert scheduler._study is not None
    assert [trial.state.name for trial in scheduler._study.trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert scheduler._study.trials[3].intermediate_values == {1: 0.5, 2: 0.25}


def test_what_optuna_warns_of_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    run(a_pruner("wilcoxon"), [FOLDS[0], [float("nan")] * 4, [float("inf")] * 4])

    assert caplog.text.count("WilcoxonPruner will not prune this trial") == 1


class Own(optuna.pruners.BasePruner):
    """Prunes all."""

    def prune(self, study: Any, trial: Any) -> bool:
        return True


def test_a_pruner_of_ones_own_works_and_has_to_be_given_again() -> None:
    scheduler = a_pruner(Own())

    assert run(scheduler, [[1.0]]) == [0]
    config = tune.TuneConfig(scheduler=scheduler)
    data = spec.describe(
        name="x", experiment_id="a1b2c", trainable_name="train", param_space={}, tune_config=config,
        run_config=tune.RunConfig(),
    )  # fmt: skip
    assert any("pruner" in fault and "Own" in fault for fault in spec.missing(data))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("WilcoxonPruner", {"p_threshold": 0.3}),
        ("ThresholdPruner", {"upper": 2.0, "interval_steps": 2}),
        ("HyperbandPruner", {"max_resource": 9}),
        ("SuccessiveHalvingPruner", {"reduction_factor": 2}),
        ("MedianPruner", {"n_startup_trials": 3, "n_warmup_steps": 4, "n_min_trials": 2}),
    ],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_pruner_of_optunas_is_written_down_and_made_again_with_its_arguments(
    name: str, given: dict[str, Any]
) -> None:
    pruner = getattr(optuna.pruners, name)(**given)
    scheduler = a_pruner(pruner)
    data = spec.describe(
        name="x", experiment_id="a1b2c", trainable_name="train", param_space={}, run_config=tune.RunConfig(),
        tune_config=tune.TuneConfig(scheduler=scheduler),
    )  # fmt: skip

    assert spec.missing(data) == []
    again = spec.rebuild_tune_config(data).scheduler
    assert isinstance(again, OptunaPruner)
    assert type(again._pruner) is type(pruner)
    assert vars(again._pruner) == vars(pruner)
    assert run(again, CURVES) == run(scheduler, CURVES)


def test_the_pruner_that_was_given_is_left_as_it_was() -> None:
    pruner = optuna.pruners.HyperbandPruner(max_resource="auto")

    run(a_pruner(pruner), CURVES)

    assert pruner._max_resource == "auto"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wilcoxn",), "pruner='wilcoxn'.*'wilcoxon'.*did you mean 'wilcoxon'"),
        ((3,), "pruner=3.*expected a BasePruner"),
        ((optuna.pruners.MedianPruner,), "given the class; expected an instance"),
        ((optuna.samplers.RandomSampler(),), "expected a BasePruner, got RandomSampler"),
        (("median", {"patience": 3}), "MedianPruner has no patience; it has n_startup_trials"),
        (
            ("wilcoxon", {"p_threshold": 2}),
            "WilcoxonPruner refuses them: p_threshold must be between 0 and 1",
        ),
        (("threshold",), "ThresholdPruner refuses them: Either lower or upper"),
        (("patient", {"patience": 3}), "PatientPruner refuses them: .*wrapped_pruner"),
        (("patient", {"patience": 3, "wrapped_pruner": "medan"}), "did you mean 'median'"),
        (("patient", {"patience": 3, "wrapped_pruner": {"name": "median"}}), "as wrapped_pruner"),
        (("median", ["n_startup_trials"]), "expected a dict of the pruner's arguments"),
        ((optuna.pruners.NopPruner(), {"x": 1}), "give yours its arguments itself"),
    ],
)
def test_what_is_no_pruner_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptunaPruner(*arguments)


def test_all_faults_are_named_together() -> None:
    with pytest.raises(ConfigError) as raised:
        OptunaPruner("medan", time_attr="", mode="least")

    assert len(raised.value.faults) == 3


def test_it_is_made_by_its_name() -> None:
    scheduler = create_scheduler("optuna_pruner", pruner="wilcoxon", options={"p_threshold": 0.2})

    assert scheduler.debug_string() == "Using Optuna's WilcoxonPruner: num_stopped=0."


@pytest.mark.parametrize(
    ("missing", "hint"), [("optuna", "prefect-tune[optuna]"), ("scipy", "pip install scipy")]
)
def test_what_is_not_installed_is_named_with_what_to_install(missing: str, hint: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from tune_core.schedulers import OptunaPruner\n"
        "try: OptunaPruner('wilcoxon')\nexcept ImportError as error: print(error)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert hint in ran.stdout
