"""`stop` and `steer`: requests to an experiment that runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tune_core.cli.answer import Answer, ExitCode, Output
from tune_core.cli.opening import Access, open_experiment
from tune_core.errors import ConfigError
from tune_core.steering.inbox import (
    TIMEOUT_S,
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
    request_to_dict,
    send,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

Action = Literal["pause", "resume", "stop", "add", "num-samples", "loosen", "space"]
_OF_TRIALS: dict[str, type[PauseTrial | ResumeTrial | StopTrial]] = {
    "pause": PauseTrial,
    "resume": ResumeTrial,
    "stop": StopTrial,
}
_OF_EXPERIMENTS: dict[str, type[PauseExperiment | ResumeExperiment | StopExperiment]] = {
    "pause": PauseExperiment,
    "resume": ResumeExperiment,
    "stop": StopExperiment,
}


def stop(
    path: str,
    /,
    *,
    reason: str = "stopped from the command line",
    timeout: float = TIMEOUT_S,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Stop a running experiment cleanly: its trials end at their next reports, its flow run Completed.

    Returns once the experiment has taken note.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        reason: Shown as why it ended.
        timeout: Seconds to wait for the answer.
        access: How to get to the storage.
        output: How to answer.
    """
    return _ask(path, StopExperiment(reason), timeout, access)


def steer(
    path: str,
    action: Action,
    /,
    *values: str,
    timeout: float = TIMEOUT_S,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Change what a running experiment does. It answers whether it will, and the request survives its death.

    - pause, resume, stop: the experiment, or the trials whose ids or numbers follow
    - add: one more trial, of the values that follow: lr=0.01 net/width=64
    - num-samples: extend the search to that many samples
    - loosen: stop rules instead of those that were: training_iteration=200
    - space: draw from other values, or more parameters: 'lr={"loguniform": [1e-5, 1]}'

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        action: pause, resume, stop, add, num-samples, loosen or space.
        values: What the action needs.
        timeout: Seconds to wait for the answer.
        access: How to get to the storage.
        output: How to answer.
    """
    requests = _requests(action, values)
    answers = [_ask(path, request, timeout, access) for request in requests]
    if len(answers) == 1:
        return answers[0]
    document = {"replies": [answer.document for answer in answers]}
    return Answer(document, _view_of_many, max(answer.exit_code for answer in answers))


def _requests(action: Action, values: Sequence[str]) -> list[Request]:
    if action in _OF_TRIALS:
        return [_OF_TRIALS[action](value) for value in values] or [_OF_EXPERIMENTS[action]()]
    if action == "add":
        return [AddConfiguration(nested(assignments(values, "steer PATH add", "lr=0.01 net/width=64")))]
    if action == "loosen":
        return [LoosenStop(assignments(values, "steer PATH loosen", "training_iteration=200"))]
    if action == "space":
        return [ChangeSpace(assignments(values, "steer PATH space", """'lr={"loguniform": [1e-5, 1]}'"""))]
    if len(values) != 1 or not values[0].isdecimal():
        raise ConfigError(f"steer PATH num-samples {' '.join(values)}: expected one whole number")
    return [RaiseNumSamples(int(values[0]))]


def _ask(path: str, request: Request, timeout: float, access: Access | None) -> Answer:
    storage, _ = open_experiment(path, access)
    reply = send(storage, request, timeout)
    document = {
        "experiment": storage.url,
        **request_to_dict(request),
        "accepted": reply.accepted,
        "message": reply.message,
    }
    return Answer(document, _view, ExitCode.OK if reply.accepted else ExitCode.FAILED)


def _view(document: dict[str, Any]) -> Iterable[RenderableType]:
    yield document["message"] if document["accepted"] else f"refused: {document['message']}"


def _view_of_many(document: dict[str, Any]) -> Iterable[RenderableType]:
    for reply in document["replies"]:
        yield from _view(reply)


def assignments(values: Sequence[str], command: str, example: str) -> dict[str, Any]:
    """Return `lr=0.01 act=relu` as a dict; values are JSON where they can be, else text.

    Args:
        values: As they were typed.
        command: What they were typed after, for errors.
        example: A right one, for errors.

    Raises:
        ConfigError: There are none, or one is no assignment, or a name comes twice.

    Example:
        >>> assignments(["lr=0.01", "layers=[8, 8]", "act=relu"], "add", "lr=0.01")
        {'lr': 0.01, 'layers': [8, 8], 'act': 'relu'}
    """
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            fault = "given twice" if name in found else "no assignment"
            raise ConfigError(f"{command} {text}: {fault}, expected NAME=VALUE, such as {example}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if not found:
        raise ConfigError(f"{command}: nothing to set, expected NAME=VALUE, such as {example}")
    return found


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a dict whose names have no "/" any more.

    Raises:
        ConfigError: A name is both a value and a parent.

    Example:
        >>> nested({"lr": 0.1, "net/width": 64})
        {'lr': 0.1, 'net': {'width': 64}}
    """
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, key = name.split("/")
        holder = found
        for parent in parents:
            holder = holder.setdefault(parent, {})
            if not isinstance(holder, dict):
                raise ConfigError(f"{name}={value}: {parent!r} has a value itself")
        if key in holder:
            raise ConfigError(f"{name}={value}: {name!r} has values below it")
        holder[key] = value
    return found
