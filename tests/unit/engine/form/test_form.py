"""Experiments as files and deployments' parameters hold them; no server, no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import BaseModel, TypeAdapter

import tune_core as tune
from tune_core import schedulers, search
from tune_core.config.warm_start import WarmStart
from tune_core.engine.form.fields import FormModel, OneOf, OptionForm, option_form
from tune_core.engine.form.form import (
    Bundle,
    CheckpointForm,
    ExperimentForm,
    FailureForm,
    ResourcesForm,
    RunForm,
    SyncForm,
    TuneForm,
)
from tune_core.engine.form.yaml12 import read_list, read_yaml
from tune_core.errors import ConfigError
from tune_core.init_args import arguments_of
from tune_core.registry import find_trainable
from tune_core.resources import PlacementGroupFactory
from tune_core.schedulers import by_name
from tune_core.search import create
from tune_core.training.resource_requests import resources_of

#: What only Python can say, or what a process knows of itself.
_ONLY_PYTHON = {
    TuneForm: {"trial_name_creator", "trial_dirname_creator", "chdir_to_trial_dir"}
    | {"fresh_process", "max_reuses", "max_reuse_memory", "max_process_growth"},
    RunForm: {
        "storage_filesystem",
        "storage_options",
        "runtime_env",
        "callbacks",
        "progress_reporter",
        "local_dir",
    },
    FailureForm: set(),
    CheckpointForm: {"_checkpoint_keep_all_ranks", "_checkpoint_upload_from_workers"},
    SyncForm: {"sync_period", "sync_timeout"},
}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in ("STORAGE_PATH", "STORAGE_OPTIONS", "STORE"):
        monkeypatch.delenv(f"PREFECT_INTEGRATIONS_TUNE_{name}", raising=False)


def train(config: dict[str, Any]) -> dict[str, Any]:
    return {"loss": config["lr"]}


TRAIN = f"{__name__}:train"


def form_of(**parts: Any) -> ExperimentForm:
    return ExperimentForm.read({"trainable": "math:sqrt", **parts})


def faults_of(**parts: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        form_of(**parts)
    return list(caught.value.faults)


def test_a_yaml_file_says_what_a_tuner_is_told(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("""
trainable: math:sqrt
param_space:
  lr: {type: loguniform, lower: 1e-4, upper: 1e-1}
  optimizer:
    name: {type: choice, categories: [adam, no]}
    momentum: {grid_search: [0.5, 9e-1]}
  layers: {type: randint, lower: 1, upper: 4}
  epochs: 20
  shape: [64, 64]
tune_config:
  metric: loss
  mode: min
  num_samples: 8
  scheduler: {type: asha, max_t: 20}
  search_alg: random
run_config:
  name: digits
  storage_path: s3://bucket/tuning
  stop: {training_iteration: 20}
  failure_config: {max_failures: 2}
  checkpoint_config: {num_to_keep: 1}
  tags: [nightly]
resources: {cpu: 2, gpu: 0.5}
""")

    form = ExperimentForm.load(path)
    run, tuned = form.run_config.make(), form.tune_config.make()

    assert str(form.space()) == str(
        {
            "lr": tune.loguniform(1e-4, 1e-1),
            "optimizer": {"name": tune.choice(["adam", "no"]), "momentum": tune.grid_search([0.5, 0.9])},
            "layers": tune.randint(1, 4),
            "epochs": 20,
            "shape": [64, 64],
        }
    )
    assert (tuned.metric, tuned.mode, tuned.num_samples) == ("loss", "min", 8)
    assert isinstance(tuned.scheduler, schedulers.AsyncHyperBandScheduler)
    assert isinstance(tuned.search_alg, search.BasicVariantGenerator)
    assert (run.name, run.storage_path, run.stop) == (
        "digits",
        "s3://bucket/tuning",
        {"training_iteration": 20},
    )
    assert run.failure_config == tune.FailureConfig(max_failures=2)
    assert run.checkpoint_config == tune.CheckpointConfig(num_to_keep=1)
    assert run.tags == ["nightly"]
    assert form.resources.make() == PlacementGroupFactory([{"CPU": 2, "GPU": 0.5}])


def test_json_is_read_as_yaml_is(tmp_path: Path) -> None:
    values = {"trainable": "math:sqrt", "param_space": {"lr": {"type": "uniform", "lower": 0, "upper": 1e-3}}}
    (tmp_path / "spec.json").write_text(json.dumps(values))

    assert ExperimentForm.load(tmp_path / "spec.json") == ExperimentForm.read(values)


def test_what_a_form_does_not_say_is_as_a_tuner_has_it() -> None:
    form = form_of()

    assert form.tune_config.make() == tune.TuneConfig()
    assert form.run_config.make() == tune.RunConfig()
    assert form.space() == {}
    assert form.resources.make() is None


@pytest.mark.parametrize("model", _ONLY_PYTHON, ids=lambda model: model.__name__)
def test_every_option_that_json_can_hold_is_in_the_form(model: type[FormModel]) -> None:
    options = {each.name for each in fields(model.makes)}  # type: ignore[arg-type]

    assert set(model.model_fields) - {"store"} == options - _ONLY_PYTHON[model]


def test_the_form_makes_a_tuner_of_the_trainable_with_its_bundles(tmp_path: Path) -> None:
    form = ExperimentForm.read(
        {
            "trainable": TRAIN,
            "param_space": {"lr": 1},
            "run_config": {"storage_path": str(tmp_path)},
            "resources": {"bundles": [{"CPU": 1}, {"CPU": 2, "special": 1}], "strategy": "SPREAD"},
        }
    )

    experiment = form.tuner("digits_2026").experiment()

    assert (experiment.name, experiment.trainable_name) == ("digits_2026", "train")
    assert experiment.storage.url.endswith(f"{tmp_path}/digits_2026")
    assert resources_of(experiment.trainable, {}) == PlacementGroupFactory(
        [{"CPU": 1}, {"CPU": 2, "special": 1}], "SPREAD"
    )


@pytest.mark.parametrize(
    "written",
    [
        "digits",
        ["digits"],
        {"sources": "digits"},
        {"sources": ["digits"], "max_points": 0},
    ],
)
def test_a_warm_start_may_be_written_as_its_sources(written: Any) -> None:
    tuned = {"metric": "loss", "mode": "min", "search_alg": "optuna", "warm_start": written}
    form = ExperimentForm.read({"trainable": "math:sqrt", "tune_config": tuned})

    assert form.tune_config.make().warm_start == WarmStart("digits")
    assert ExperimentForm.read(form.model_dump(mode="json")) == form


def test_without_a_source_there_is_no_warm_start_and_a_wrong_one_is_named() -> None:
    form = ExperimentForm.read({"trainable": "math:sqrt", "tune_config": {"warm_start": {"sources": []}}})
    assert form.tune_config.make().warm_start is None

    with pytest.raises(ConfigError, match="learns nothing from earlier trials"):
        ExperimentForm.read({"trainable": "math:sqrt", "tune_config": {"warm_start": "digits"}})
    with pytest.raises(ConfigError, match="expected deployment:FLOW/NAME"):
        ExperimentForm.read({"trainable": "math:sqrt", "tune_config": {"warm_start": "deployment:nightly"}})


def test_all_faults_are_named_together_with_their_fields() -> None:
    faults = faults_of(
        param_space={
            "lr": {"type": "uniform", "lower": 2, "upper": 1},
            "act": {"type": "choice", "categories": []},
        },
        tune_config={"num_samples": 0, "metric": "loss"},
        run_config={
            "verbose": 7,
            "stop": {"loss": "low"},
            "failure_config": {"max_failures": 1, "fail_fast": True},
        },
        resources={"bundles": [{"CPU": -1}]},
        trainables=1,
    )

    text = "\n".join(faults)
    for expected in (
        "param_space.0.sampler.uniform: uniform: lower=2.0 is above upper=1.0: swap them",
        "param_space.1.sampler.choice.categories: ",
        "tune_config: 2 faults: (1) TuneConfig(metric='loss'): mode is missing",
        "TuneConfig(num_samples=0): expected an integer of at least 1, or -1 for no end",
        "run_config.verbose: ",
        "run_config.stop.0.at_least: ",
        "run_config.failure_config: FailureConfig(max_failures=1): must be 0 with fail_fast=True",
        "resources.bundles.0.CPU: ",
        "trainables: Extra inputs are not permitted",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"param_space": {"lr": {"type": "lguniform", "lower": 1}}}, "param_space.0.sampler: "),
        ({"param_space": [{"name": "a", "sampler": "constant"}]}, "sampler.constant.value: Field required"),
        ({"param_space": [{"name": "a/", "sampler": {"type": "randn"}}]}, "param_space.0.name: "),
        ({"param_space": {"a": 1, "a/b": 2}}, "param_space: 'a' and 'a/b': a parameter has a value, or"),
        (
            {"param_space": [{"name": "a", "sampler": {"type": "randn"}}] * 2},
            "param_space: 'a': given more than once",
        ),
        ({"tune_config": {"scheduler": {"type": "asha", "grace_period": 200}}}, "grace_period=200.0"),
        ({"tune_config": {"scheduler": "no_such"}}, "tune_config.scheduler: "),
        ({"tune_config": {"scheduler": "asha"}}, "compares trials by a metric: add metric=... and mode=..."),
        (
            {"param_space": {"a": {"loguniforn": {"lower": 1}}}},
            "'loguniforn' is no sampler; did you mean 'loguniform'?",
        ),
        ({"param_space": {"a": {"quniform": {"lower": 1, "upper": 2}}}}, "quniform needs q"),
        ({"run_config": {"name": "a/b"}}, "run_config: RunConfig(name='a/b')"),
        ({"run_config": [1]}, "run_config: Input should be"),
        ({"resources": {"bundles": [{}, {}]}}, "resources: PlacementGroupFactory"),
    ],
)
def test_a_fault_names_its_field(parts: dict[str, Any], expected: str) -> None:
    (fault,) = faults_of(**parts)

    assert expected in fault


def test_what_the_worker_does_not_have_is_named_together() -> None:
    form = ExperimentForm.read(
        {"trainable": "no_such_package.train:run", "run_config": {"storage_path": "s3://key:secret@bucket/x"}}
    )

    with pytest.raises(ConfigError) as caught:
        form.tuner()

    trainable, storage = caught.value.faults
    assert "trainable='no_such_package.train:run' cannot be imported" in trainable
    assert "storage_path" in storage
    assert "key:secret" not in storage


@pytest.mark.parametrize("text", ["[1, 2]", "a: [1", "- x", ""])
def test_a_file_that_is_no_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(text)

    with pytest.raises(ConfigError):
        ExperimentForm.load(tmp_path / "spec.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        ExperimentForm.load(tmp_path / "nowhere.yaml")


def test_a_form_survives_being_stored_as_json() -> None:
    form = form_of(
        param_space={
            "lr": {"type": "qrandn", "mean": 1, "sd": 2, "q": 0.5},
            "act": {"grid_search": ["relu", [1]]},
        },
        tune_config={"metric": "loss", "mode": "min", "scheduler": "median_stopping_rule"},
        resources=[{"GPU": 1, "special": 2}],
    )

    stored = json.loads(json.dumps(form.model_dump(mode="json")))

    assert ExperimentForm.read(stored) == form
    assert stored["resources"]["bundles"] == [{"GPU": 1.0, "special": 2.0}]
    assert "time_budget_s" not in stored["tune_config"]


def test_hyperband_and_bohb_are_there_by_name() -> None:
    form = form_of(
        param_space={"lr": {"type": "uniform", "lower": 0, "upper": 1}},
        tune_config={
            "metric": "loss",
            "mode": "min",
            "scheduler": {"hb_bohb": {"max_t": 9, "reduction_factor": 2}},
            "search_alg": {"bohb": {"seed": 1, "bohb_config": {"random_fraction": 0.5}}},
        },
    )

    config = form.tune_config.make()

    assert config.scheduler is not None
    assert config.search_alg is not None
    assert {"max_t": 9, "reduction_factor": 2}.items() <= arguments_of(config.scheduler).items()
    assert arguments_of(config.search_alg)["seed"] == 1
    assert arguments_of(config.search_alg)["bohb_config"] == {"random_fraction": 0.5}


def test_a_new_scheduler_and_a_new_searcher_appear_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lottery(schedulers.FIFOScheduler):
        """Stops at random.

        Args:
            share: How many of them.
            judge: Says which.
        """

        def __init__(self, share: float = 0.5, judge: FormModel | None = None) -> None:
            super().__init__()
            self.share = share

    monkeypatch.setitem(by_name._SCHEDULERS, "lottery", Lottery)
    monkeypatch.setitem(create._SEARCHERS, "mine", "tune_core.search.repeater:Repeater")

    class Newer(TuneForm):
        """Built after they were registered."""

    Newer.model_rebuild(force=True)
    chosen = Newer.model_validate({"scheduler": {"type": "lottery", "share": 0.1}})
    schema = Newer.model_json_schema()

    scheduler = chosen.make().scheduler
    assert isinstance(scheduler, Lottery)
    assert scheduler.share == 0.1
    assert schema["$defs"]["lottery"]["properties"]["share"] == {
        "default": 0.5,
        "description": "How many of them.",
        "position": 1,
        "title": "Share",
        "type": "number",
    }
    assert "judge" not in schema["$defs"]["lottery"]["properties"]
    assert "mine" not in schema["$defs"], "a Repeater needs a searcher, which JSON cannot hold"


def test_of_several_names_of_a_scheduler_each_is_understood_and_one_is_shown() -> None:
    chosen = form_of(tune_config={"metric": "x", "mode": "max", "scheduler": {"type": "AsyncHyperBand"}})

    assert chosen.tune_config.scheduler is not None
    assert chosen.tune_config.scheduler.option_kind == "asha"
    assert "async_hyperband" not in TuneForm.model_json_schema()["$defs"]


def test_what_cannot_be_called_without_a_function_is_not_offered() -> None:
    assert option_form("sample_from", search.sample_from) is None
    assert option_form("uniform", search.uniform) is not None


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from schemas(child)
    elif isinstance(node, list):
        for child in node:
            yield from schemas(child)


def test_the_schema_has_only_what_both_uis_draw() -> None:
    schema = ExperimentForm.model_json_schema()

    for node in schemas(schema):
        assert "oneOf" not in node, "V1 shows a box for JSON, V2 the wrong tab"
        assert "discriminator" not in node
        if node.get("anyOf") != [{"type": "boolean"}, {"type": "null"}]:
            assert {"type": "null"} not in node.get("anyOf", []), "both show a tab None"
    for name, definition in schema["$defs"].items():
        for field, details in definition.get("properties", {}).items():
            assert "title" in details, f"{name}.{field}"
    for model in _ONLY_PYTHON:
        described = schema["$defs"][model.__name__]["properties"]
        assert [name for name, details in described.items() if "description" not in details] == []


def refusal_of(values: dict[str, Any], model: type[BaseModel] = ExperimentForm) -> str | None:
    """The path that Prefect's server names: it asks jsonschema, as here."""
    try:
        jsonschema.validate(values, model.model_json_schema())
    except jsonschema.ValidationError as error:
        return error.json_path
    return None


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ({}, None),
        ({"param_space": {"lr": {"type": "uniform", "lower": 0, "upper": 1}}}, None),
        ({"param_space": [{"name": "a", "sampler": {"choice": {"categories": "1, 2"}}}]}, None),
        ({"param_space": [{"name": "a", "sampler": {"choice": {"categories": [1, "b", [2]]}}}]}, None),
        ({"run_config": {"stop": {"training_iteration": 3}, "name": "nightly"}}, None),
        ({"resources": {"bundles": [{"CPU": 1, "special": 2}]}}, None),
        ({"tune_config": {"num_samples": 0}}, "$.tune_config.num_samples"),
        ({"tune_config": {"num_samples": "many"}}, "$.tune_config.num_samples"),
        ({"tune_config": {"scheduler": {"asha": {"max_t": "x"}}}}, "$.tune_config.scheduler.asha.max_t"),
        ({"trainable": "train"}, "$.trainable"),
        ({"run_config": {"name": "a::b"}}, "$.run_config.name"),
        ({"run_config": {"name": "a\tb"}}, "$.run_config.name"),
        ({"run_config": {"storage_path": "s3://key:secret@bucket"}}, "$.run_config.storage_path"),
        ({"run_config": {"storage_path": "s3://key:se/cret@bucket"}}, "$.run_config.storage_path"),
        ({"run_config": {"storage_path": "s3://key:secret/bucket"}}, "$.run_config.storage_path"),
        ({"run_config": {"storage_path": "s3:/bucket/a"}}, "$.run_config.storage_path"),
        ({"run_config": {"storage_path": "s3://bucket/me@example.org"}}, None),
        ({"run_config": {"storage_path": "hdfs://host:8020/runs"}}, None),
        (
            {"param_space": [{"name": "a", "sampler": {"loguniform": {"lower": 0, "upper": 1}}}]},
            "$.param_space[0].sampler.loguniform.lower",
        ),
        (
            {"param_space": [{"name": "a", "sampler": {"unform": {"lower": 0, "upper": 1}}}]},
            "$.param_space[0].sampler",
        ),
        (
            {"param_space": [{"name": "a", "sampler": {"uniform": {"lower": 1}}}]},
            "$.param_space[0].sampler.uniform",
        ),
    ],
)
def test_the_schema_refuses_a_wrong_value_by_its_field(parts: dict[str, Any], path: str | None) -> None:
    assert refusal_of({"trainable": "math:sqrt", **parts}) == path


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [*x]",
        "a: &x {b: *x}",
        "a: " + 5000 * "9",
        5000 * "[" + 5000 * "]",
        "{lr: 1, lr: 2}",
        "net: {lr: 1, 'lr': 2}",
        "a: !!timestamp hello",
        "a: !!float much",
        "a: !!bool maybe",
        'a: "\\ud83d"',
        "{[1]: 2}",
    ],
)
def test_document_that_no_form_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^spec\.yaml is neither YAML nor JSON"):
        read_yaml(text, "spec.yaml")


@pytest.mark.parametrize("value", ["\U0001f600", "é\n", ["\U0001f600", {"\U0001f600": 1e-7}]])
def test_what_python_writes_as_json_is_read_as_it_was(value: Any) -> None:
    assert read_yaml(json.dumps({"a": value}), "x") == {"a": value}


def test_aliases_and_merged_keys_are_read() -> None:
    text = "{a: &a {x: 1, y: [1, 2]}, b: {<<: *a, x: 2}, c: *a}"

    assert read_yaml(text, "x") == {
        "a": {"x": 1, "y": [1, 2]},
        "b": {"x": 2, "y": [1, 2]},
        "c": {"x": 1, "y": [1, 2]},
    }


@pytest.mark.parametrize("value", [None, {}, [None, {}], {"a": {}, "b": None}])
def test_constants_that_are_empty_stay_what_they_are(value: Any) -> None:
    form = ExperimentForm.read({"trainable": "math:sqrt", "param_space": {"x": value}})

    assert form.space() == {"x": value}
    assert ExperimentForm.model_validate(form.model_dump(mode="json")).space() == {"x": value}


def test_values_are_read_as_they_are_written() -> None:
    assert read_yaml("{a: 1e-3, b: no, c: 1:30, d: 2026-01-01, e: 017, f: ~, g: true, h: -.5}", "x") == {
        "a": 0.001,
        "b": "no",
        "c": "1:30",
        "d": "2026-01-01",
        "e": 17,
        "f": None,
        "g": True,
        "h": -0.5,
    }
    assert read_list("16, 32", "x") == read_list("[16, 32]", "x") == [16, 32]
    assert read_list("[16], [32]", "x") == [[16], [32]]
    with pytest.raises(ConfigError):
        read_yaml("!!python/object/apply:os.getcwd []", "x")


def test_a_bundle_has_what_was_given_and_no_cpu_besides() -> None:
    assert Bundle.model_validate({"gpu": 1}).resources() == {"GPU": 1.0}
    assert ResourcesForm.model_validate({"gpu": 1}).make() == PlacementGroupFactory([{"GPU": 1}])
    assert "default" not in Bundle.model_json_schema()["properties"]["CPU"], (
        "both UIs would add it to {GPU: 1}"
    )


@pytest.mark.parametrize(
    "written",
    [
        {"loguniform": {"lower": 1, "upper": 8}},
        {"type": "loguniform", "lower": 1, "upper": 8},
        {"type": "qloguniform", "lower": 1, "upper": 8, "q": 0.5},
        {"qloguniform": {"lower": 1, "upper": 8, "q": 0.5}},
        {"loguniform": {"lower": 1, "upper": 8, "q": 0.5}},
    ],
)
def test_a_sampler_may_be_written_in_either_way(written: dict[str, Any]) -> None:
    expected = tune.qloguniform(1.0, 8.0, 0.5) if "0.5" in str(written) else tune.loguniform(1.0, 8.0)

    assert form_of(param_space={"lr": written}).space() == {"lr": expected}
    assert form_of(param_space=[{"name": "lr", "sampler": written}]).space() == {"lr": expected}


def test_a_choice_is_stored_with_a_key_of_its_own_since_uis_find_its_tab_by_that() -> None:
    form = form_of(
        param_space={"a": {"grid_search": [1, 2]}, "b": {"constant": 3}}, tune_config={"search_alg": "random"}
    )

    stored = form.model_dump(mode="json")

    assert [entry["sampler"] for entry in stored["param_space"]] == [
        {"grid_search": {"values": [1, 2]}},
        {"constant": {"value": 3}},
    ]
    assert list(stored["tune_config"]["search_alg"]) == ["random"]


def test_the_example_of_the_documentation_is_such_a_file(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "form.md").read_text(encoding="utf-8")
    path = tmp_path / "spec.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])

    form = ExperimentForm.load(path)

    assert form.space()["hidden_width"] == tune.choice([16, 32, 64, 128])
    assert form.space()["optimizer"] == {"momentum": tune.grid_search([0.5, 0.9])}
    assert form.run_config.make().stop == {"training_iteration": 20}
    assert find_trainable(form.trainable).__name__ == "train_digits"


@pytest.mark.parametrize(("model", "field"), [(ExperimentForm, "param_space"), (RunForm, "stop")])
def test_what_is_a_list_or_a_mapping_has_a_tab_for_each_that_no_ui_mistakes(
    model: type[FormModel], field: str
) -> None:
    schema = model.model_json_schema()["properties"][field]
    mapping, listed = schema["anyOf"]

    assert schema["default"] == [], "both UIs open the form where nothing is given"
    assert mapping["type"] == "object", "V1 opens the first tab for a mapping, whose keys it cannot know"
    assert "properties" not in mapping, "V2 looks for an object without any"
    assert mapping["allOf"] == [{"type": "object"}], "else V2 draws nothing"
    assert (listed["title"], listed["type"]) == ("Form", "array")


@pytest.mark.parametrize("value", [None, [], {}, "", False, [1, None, {"a": []}], {"a": {"b": None}}])
def test_the_list_form_takes_any_value_that_json_has(value: Any) -> None:
    given = {
        "trainable": "math:sqrt",
        "param_space": [
            {"name": "x", "sampler": {"constant": {"value": value}}},
            {"name": "y", "sampler": {"choice": {"categories": [value, 1]}}},
        ],
    }

    jsonschema.validate(given, ExperimentForm.model_json_schema())  # as the server does

    assert ExperimentForm.read(given).space() == {"x": value, "y": tune.choice([value, 1])}


def test_a_choice_is_drawn_as_tabs_where_it_is_a_parameter_of_a_flow_too() -> None:
    schema = TypeAdapter(Annotated[OptionForm, OneOf(by_name.schedulers, ("metric", "mode"))]).json_schema()

    assert [tab["title"] for tab in schema["anyOf"]][:2] == ["fifo", "asha"]
    assert "oneOf" not in schema
    for value, is_right in (
        ({"asha": {"max_t": 3}}, True),
        ({"asha": {"max_t": "x"}}, False),
        ({"b": {}}, False),
    ):
        assert jsonschema.Draft202012Validator(schema).is_valid(value) is is_right


def test_an_option_may_have_an_argument_that_is_called_type() -> None:
    promoting = {"asha": {"type": "promotion", "max_t": 9.0}}
    chosen = form_of(tune_config={"metric": "x", "mode": "max", "scheduler": promoting})

    scheduler = chosen.tune_config.make().scheduler

    assert isinstance(scheduler, schedulers.ASHAScheduler)
    assert scheduler.resumes_before_new_trials
    assert chosen.tune_config.scheduler.option_kind == "asha"
    assert ExperimentForm.read(chosen.model_dump(mode="json")) == chosen


def test_population_is_written_as_data(tmp_path: Path) -> None:
    file = tmp_path / "population.yaml"
    file.write_text(
        """
trainable: math:sqrt
param_space: {lr: {type: uniform, lower: 0, upper: 1}, net: {act: relu}}
tune_config:
  metric: loss
  mode: min
  num_samples: 8
  scheduler:
    pbt:
      time_attr: training_iteration
      perturbation_interval: 5
      hyperparam_mutations:
        lr: {type: loguniform, lower: 0.01, upper: 1}
        batch: [16, 32]
        net: {width: {randint: {lower: 1, upper: 9}}}
      custom_explore_fn: math:sqrt
      perturbation_factors: [1.5, 0.5]
      seed: 1
"""
    )

    form = ExperimentForm.load(file)
    again = ExperimentForm.read(form.model_dump(mode="json"))

    for each in (form, again):
        scheduler = each.tune_config.make().scheduler
        assert isinstance(scheduler, schedulers.PopulationBasedTraining)
        filled = scheduler.fill_in(3, {"net": {"act": "relu"}})
        assert 0.01 <= filled["lr"] <= 1
        assert filled["batch"] in (16, 32)
        assert filled["net"]["width"] in range(1, 9)
    assert again == form


def test_pb2_and_a_replay_are_written_as_data(tmp_path: Path) -> None:
    (tmp_path / "policy").touch()
    forms = [
        {"pb2": {"hyperparam_bounds": {"lr": [0.1, 1]}, "seed": 1}},
        {"pbt_replay": {"policy_file": str(tmp_path / "policy")}},
    ]

    made = [TuneForm(metric="loss", mode="min", scheduler=each).make().scheduler for each in forms]

    assert [type(each) for each in made] == [schedulers.PB2, schedulers.PopulationBasedTrainingReplay]


def test_mutations_that_cannot_work_are_refused_with_their_place() -> None:
    scheduler = {"pbt": {"hyperparam_mutations": {"lr": {"type": "unifrm"}}}}

    with pytest.raises(ConfigError, match=r"hyperparam_mutations\['lr'\].*did you mean 'uniform'"):
        ExperimentForm.read({"trainable": "math:sqrt", "tune_config": {"scheduler": scheduler}})


def test_a_pruner_of_optuna_is_chosen_by_its_name_with_its_options() -> None:
    pruning = {"optuna_pruner": {"pruner": "wilcoxon", "options": {"p_threshold": 0.2}, "time_attr": "fold"}}
    chosen = form_of(tune_config={"metric": "x", "mode": "max", "scheduler": pruning})

    assert chosen.tune_config.make().scheduler.debug_string().startswith("Using Optuna's WilcoxonPruner")
    assert chosen.model_dump(mode="json")["tune_config"]["scheduler"] == pruning
    assert faults_of(
        tune_config={"metric": "x", "mode": "max", "scheduler": {"optuna_pruner": {"pruner": "wilcx"}}}
    )


def test_several_metrics_are_given_to_the_scheduler_that_compares_by_them() -> None:
    several = {"mo_asha": {"metrics": ["error", "latency"], "modes": "min", "type": "promotion"}}
    chosen = form_of(tune_config={"scheduler": several})

    assert isinstance(chosen.tune_config.make().scheduler, schedulers.MultiObjectiveASHAScheduler)


# Schedulers in schedulers, budgets, and what a death changes.


def test_a_scheduler_may_have_another_one_inside(tmp_path: Path) -> None:
    path = tmp_path / "changing.yaml"
    path.write_text(f"""
trainable: {TRAIN}
tune_config:
  metric: loss
  mode: min
  max_cost: {{CPU: 40, GPU: 2}}
  scheduler:
    resource_changing:
      base_scheduler: {{asha: {{max_t: 20}}}}
      resources_allocation_function: {{top_job: {{increase_by: {{CPU: 2}}, increase_by_times: 3}}}}
run_config:
  failure_config:
    max_failed_trials: 0.25
    resources_after: {{oom: {{memory: 2.0}}, crashed: {{CPU: 1.5, special: 2}}}}
""")

    form = ExperimentForm.load(path)
    tuned, failures = form.tune_config.make(), form.run_config.make().failure_config

    scheduler = tuned.scheduler
    assert isinstance(scheduler, schedulers.ResourceChangingScheduler)
    assert arguments_of(scheduler.base_scheduler)["max_t"] == 20
    function = arguments_of(scheduler)["resources_allocation_function"]
    assert type(function) is schedulers.DistributeResourcesToTopJob
    assert (function.increase_by, function.increase_by_times) == ({"CPU": 2}, 3)
    assert tuned.max_cost == {"CPU": 40, "GPU": 2}
    assert failures.max_failed_trials == 0.25
    assert failures.resources_after == {"oom": {"memory": 2.0}, "crashed": {"CPU": 1.5, "special": 2}}
    assert ExperimentForm.model_validate(form.model_dump(mode="json")) == form


@pytest.mark.parametrize(
    "given", ["resource_changing", {"resource_changing": {}}, {"type": "resource_changing"}]
)
def test_what_is_inside_may_be_left_out(given: Any) -> None:
    scheduler = form_of(tune_config={"scheduler": given}).tune_config.make().scheduler

    assert isinstance(scheduler, schedulers.ResourceChangingScheduler)
    assert isinstance(scheduler.base_scheduler, schedulers.FIFOScheduler)


def test_no_such_scheduler_is_inside_another_one() -> None:
    inside = {"resource_changing": {"base_scheduler": "resource_changing"}}

    assert "base_scheduler" in faults_of(tune_config={"scheduler": inside})[0]


@pytest.mark.parametrize(("given", "made"), [(3, 3), (3.0, 3), (0.5, 0.5), (0, 0), (None, None)])
def test_failed_trials_are_a_number_or_a_share(given: Any, made: Any) -> None:
    failures = (
        form_of(run_config={"failure_config": {"max_failed_trials": given}}).run_config.make().failure_config
    )

    assert (failures.max_failed_trials, type(failures.max_failed_trials)) == (made, type(made))


@pytest.mark.parametrize(
    ("given", "made"), [(5, {"CPU": 5}), ({"GPU": 1}, {"GPU": 1}), ({}, None), (None, None)]
)
def test_cost_may_be_a_number(given: Any, made: Any) -> None:
    assert form_of(tune_config={"max_cost": given}).tune_config.make().max_cost == made


def test_sampler_of_optuna_is_given_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("cmaes")
    how = "{optuna: {sampler: cmaes, seed: 3, sampler_options: {popsize: 4}}}"
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"{{trainable: math:sqrt, tune_config: {{metric: loss, mode: min, search_alg: {how}}}}}\n", "utf-8"
    )

    searcher = ExperimentForm.load(path).tune_config.make().search_alg

    assert isinstance(searcher, search.Searcher)
    given = arguments_of(searcher)
    assert given == {**given, "sampler": "cmaes", "seed": 3, "sampler_options": {"popsize": 4}}


def test_sampler_that_optuna_has_not_is_refused_by_the_form() -> None:
    faults = faults_of(tune_config={"search_alg": {"optuna": {"sampler": "tpee"}}})

    assert any("tpe" in fault for fault in faults)
