"""What of an experiment cannot go on, and how that is said."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.object_refs import ObjectRef
from tests.support.resuming import (
    Activation,
    begin,
    count,
    cut,
    events,
    fit,
    rows_of,
    storage_of,
    undisturbed,
)
from tune_core import references
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    Event,
    SegmentsGivenUp,
    TrialReported,
)
from tune_core.control.resume import read_spec
from tune_core.control.segments import read_journal
from tune_core.errors import ConfigError, JournalDamaged, SpecError, StorageError


def torn(path: Path, kind: type[Event], remains: Callable[[bytes], bytes]) -> tuple[Path, int]:
    """Return a copy of which a power cut has taken the end: all from the last event of that kind on."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    segments = sorted((copy / "journal").iterdir())
    name = kind.__name__.encode()
    first = max(number for number, segment in enumerate(segments, 1) if name in segment.read_bytes())
    for segment in segments[first - 1 :]:
        segment.write_bytes(remains(segment.read_bytes()))
    return copy, first


@pytest.mark.parametrize(
    "remains",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"attempt_number", b"leash"),
    ],
    ids=["empty", "half", "changed"],
)
@pytest.mark.parametrize("kind", [TrialReported, AttemptStarted, AttemptEnded])
def test_experiment_with_a_damaged_end_goes_on_only_if_that_is_given_up(
    kind: type[Event], remains: Callable[[bytes], bytes], every_event_is_a_segment: None, path: Path
) -> None:
    begin(path, {"x": tune.grid_search([1, 2])})
    copy, first = torn(path, kind, remains)
    with pytest.raises(JournalDamaged, match=rf"{first:08d}\.jsonl is damaged: .*discard_damaged=True"):
        tune.Tuner.restore(copy, count)
    for refused in (tune.Tuner.can_restore, begin):
        with pytest.raises(JournalDamaged):
            refused(copy)

    tuner = tune.Tuner.restore(copy, count, discard_damaged=True)
    tuner.get_results()
    experiment_id = read_spec(storage_of(copy), discard_damaged=True).spec["experiment_id"]
    left = [event for event, _ in read_journal(storage_of(copy), experiment_id, discard_damaged=True)]
    results = fit(tuner)

    assert rows_of(results) == undisturbed(1, 2)
    (given_up,) = events(copy, SegmentsGivenUp)
    assert given_up.first == first
    # An attempt that only the lost segments knew may have reported and committed under its number.
    started = [each for each in events(copy, AttemptStarted) if each not in left]
    before = [(each.trial_id, each.attempt_number) for each in events(path, AttemptStarted)]
    assert started
    assert not [each for each in started if (each.trial_id, each.attempt_number) in before]
    assert rows_of(fit(tune.Tuner.restore(copy, count))) == undisturbed(1, 2), "it is known from now on"


def test_can_restore_says_whether_there_is_an_experiment(path: Path) -> None:
    assert not tune.Tuner.can_restore(path)
    begin(path)
    assert tune.Tuner.can_restore(path)
    assert tune.Tuner.can_restore(f"{path}/")
    assert not tune.Tuner.can_restore(path.parent)


def test_what_is_no_experiment_is_refused(path: Path) -> None:
    with pytest.raises(StorageError, match="holds no experiment that can be resumed"):
        tune.Tuner.restore(path, count)
    with pytest.raises(ConfigError, match=r"path=3: expected <storage_path>/<name>"):
        tune.Tuner.restore(3, count)  # type: ignore[arg-type]


def test_another_trainable_is_refused(path: Path) -> None:
    begin(path)

    def other(config: dict[str, Any]) -> None:
        """Tune something else."""

    with pytest.raises(ConfigError, match=r"trainable='other': the experiment at .* tunes 'count'"):
        tune.Tuner.restore(path, other)


def test_contradicting_wishes_are_refused(path: Path) -> None:
    begin(path)

    with pytest.raises(ConfigError, match="either goes on or starts over"):
        tune.Tuner.restore(path, count, resume_errored=True, restart_errored=True)
    with pytest.raises(ConfigError, match=r"_resume_config=\{\}: expected a tune_core.ResumeConfig"):
        tune.Tuner.restore(path, count, _resume_config={})  # type: ignore[arg-type]


def test_what_cannot_be_described_has_to_be_passed_again(path: Path) -> None:
    objects = [Activation("relu"), Activation("tanh")]
    space = {"x": 1, "act": tune.grid_search(objects)}
    begin(path, space)

    with pytest.raises(SpecError, match=r"param_space.act.*: pass param_space=… to Tuner.restore"):
        fit(tune.Tuner.restore(path, count))
    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed(1, 1)
    results = fit(tune.Tuner.restore(path, count, param_space=space, num_samples=2))
    assert [result.config["act"] for result in results] == [*objects, *objects]  # type: ignore[index]


def test_a_trial_whose_objects_are_gone_does_not_go_on(every_event_is_a_segment: None, path: Path) -> None:
    begin(path, {"x": 1, "act": tune.grid_search([Activation("relu")])})
    copy = cut(path, TrialReported)

    with pytest.raises(
        SpecError, match=r"cannot go on: its config holds objects that JSON could not store, at act"
    ):
        fit(tune.Tuner.restore(copy, count, param_space={"x": 1, "act": 2}))


def test_a_trial_whose_reference_was_one_of_several_is_refused_with_advice(
    every_event_is_a_segment: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(path, {"x": 1, "data": tune.grid_search([ObjectRef(), ObjectRef()])})
    copy = cut(path, TrialReported)
    monkeypatch.setattr(references, "_PROCESS", "another")

    space = {"x": 1, "data": tune.grid_search([ObjectRef(), ObjectRef()])}
    with pytest.raises(SpecError, match=r"at data\..*references end with the process.*with_parameters"):
        fit(tune.Tuner.restore(copy, count, param_space=space))


def test_arrays_in_configurations_do_not_stop_a_resume(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    space = {"x": tune.grid_search([1, 2]), "weights": numpy.array([1.0, 2.0])}

    def train(config: dict[str, Any]) -> None:
        if tune.get_checkpoint() is None and config["x"] == 1:
            with tempfile.TemporaryDirectory() as directory:
                tune.report({"score": 1}, checkpoint=tune.Checkpoint.from_directory(directory))
            raise KeyboardInterrupt
        tune.report({"score": config["weights"].sum()})

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(tune.Tuner(train, param_space=space, run_config=run_config))

    results = fit(tune.Tuner.restore(path, train, param_space=space))

    assert [result.metrics["score"] for result in results] == [3.0, 3.0]
