"""What trials print and log, in the logs of their task runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import SyncPrefectClient

import tune_core as tune
from tests.flows.conftest import Recorded, logs_of
from tests.support.waiting import wait_for


def test_what_a_trial_prints_and_logs_in_any_thread_is_in_its_task_runs_log(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        def speak(who: str) -> None:
            print(f"{who} {config['x']} prints")
            logging.getLogger("my.library").info("%s %s logs", who, config["x"])
            logging.getLogger("my.library").warning("%s %s warns", who, config["x"])

        speak("main")
        thread = threading.Thread(target=speak, args=("thread",))
        thread.start()
        thread.join()
        print("no line end", end="")
        if config["x"] == 2:
            raise ValueError("made up")
        return {"x": config["x"]}

    config = run_config()

    tune.Tuner(train, param_space={"x": tune.grid_search([1, 2])}, run_config=config).fit()

    for number, run in enumerate(recorded(config.name).task_runs(2), 1):
        spoken = [
            f"{who} {number} {does}" for who in ("main", "thread") for does in ("prints", "logs", "warns")
        ]
        lines = wait_for(
            lambda run=run: (
                [line for line in logs_of(client, run) if "no line end" in line] and logs_of(client, run)
            ),
            what="the log",
        )
        assert [line for line in lines if line in spoken] == spoken
        assert any("in train" in line and "ValueError: made up" in line for line in lines) == (number == 2)


def test_log_of_a_finished_trial_survives_that_the_next_one_kills_their_process(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import os

        if config["dies"]:
            # Without a report it may be taken for an attempt that never began, and is tried again.
            tune.report({"lived": True})
            os._exit(1)
        print("last words")
        return {"pid": os.getpid()}

    config = run_config()

    results = tune.Tuner(
        train,
        param_space={"dies": tune.grid_search([False, True])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=config,
    ).fit()

    assert [result.error is None for result in results] == [True, False]
    first, second = recorded(config.name).task_runs(2)
    assert (first.state_name, second.state_name) == ("Completed", "Crashed")
    wait_for(lambda: "last words" in logs_of(client, first), what="the log", timeout_s=10)
