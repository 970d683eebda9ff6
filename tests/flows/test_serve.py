"""One process that runs what is due, without a work pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter

from tests.support.prefect_server import ROOT, end, environment_of
from tests.support.waiting import wait_for
from tune_core.cli.serve import serve
from tune_core.engine.form.form import ExperimentForm
from tune_core.errors import ConfigError

FORM = ExperimentForm.read({"trainable": "math:sqrt"})

SCRIPT = """
import sys
from tune_core.cli.serve import serve
from tune_core.engine.form.form import ExperimentForm

serve(ExperimentForm.load(sys.argv[1]), "served", interval_s=5)
"""


@pytest.mark.slow
def test_what_is_due_is_run_and_the_schedule_is_paused_at_the_end(
    client: SyncPrefectClient, api: str, tmp_path: Path
) -> None:
    (tmp_path / "served_training.py").write_text("def train(config):\n    return {'y': config['x']}\n")
    spec = tmp_path / "nightly.yaml"
    spec.write_text(
        "trainable: served_training:train\n"
        "param_space: {x: {type: grid_search, values: [1, 2]}}\n"
        "tune_config: {metric: y, mode: max}\n"
        f"run_config: {{storage_path: {tmp_path}/results, name: served}}\n"
    )
    with (tmp_path / "out.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, spec],
            cwd=ROOT,
            env={
                **(environment := environment_of(tmp_path / "home", api, PREFECT_RUNNER_POLL_FREQUENCY="1")),
                "PYTHONPATH": os.pathsep.join((str(tmp_path), environment["PYTHONPATH"])),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    named = FlowRunFilter(name={"like_": "served_"})
    try:
        wait_for(
            lambda: [
                run for run in client.read_flow_runs(flow_run_filter=named) if run.state_name == "Completed"
            ],
            what="a run that was due",
            timeout_s=150,
        )
        assert client.read_deployment_by_name("experiment/served").paused is False
        process.send_signal(signal.SIGINT)
        process.wait(150)  # as long as its first run may take: another one may be under way
        deployment = client.read_deployment_by_name("experiment/served")
        assert deployment.paused or not any(each.active for each in deployment.schedules)
        assert deployment.entrypoint == "tune_core.engine.experiment.experiment"
        assert client.read_deployment_by_name("steer/steer").entrypoint == "tune_core.engine.steer.steer"
    except (AssertionError, TimeoutError) as error:
        raise AssertionError((tmp_path / "out.log").read_text()[-3000:]) from error
    finally:
        end(process)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cron": "at night"}, r"cron='at night'.*[Ii]nvalid cron"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Olympus"}, "timezone='Mars/Olympus'.*No time zone found"),
        ({"interval_s": 0}, r"interval_s=0\): expected seconds above 0"),
        ({"cron": "0 2 * * *", "interval_s": 60}, "give one of them"),
        ({"interval_s": 60, "timezone": "Europe/Berlin"}, "timezone without cron"),
        ({"limit": 0}, r"limit=0\): expected an integer of at least 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(api: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve(FORM, "never", **given)  # type: ignore[arg-type]
