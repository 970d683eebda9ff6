"""Requests to a running experiment, and the answers: small objects in `<experiment>/inbox/` on its storage.

Owns their form and their names. Who may write there may steer: no server, no port and no other right
is needed, and a request outlives the driver that it was meant for. It decides nothing, the request handler
(`tune_core.steering.request_handler`) does. Invariant: a request has at most one reply, and is read by one experiment
only.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from tune_core.config.space_change import sampler_of
from tune_core.config.spec import describe_value
from tune_core.control.namesakes import experiment_at
from tune_core.control.segments import last_segment, segment_numbers
from tune_core.encoding import dumps, holds_opaque, loads
from tune_core.errors import ConfigError, CreateConflict, NotSteered, StorageError
from tune_core.stopper import DictStopper
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief
from tune_core.validation import Validator, shorten

FORMAT = 1
DIRECTORY = "inbox"
#: How often a driver looks for requests, in seconds: on this machine's disk, and on a remote storage.
POLL_LOCAL_S, POLL_REMOTE_S = 2.0, 5.0
#: How long `send` waits for the answer unless it is told otherwise, in seconds.
TIMEOUT_S = 60.0

_REPLY = ".reply.json"
_REQUEST = re.compile(r"(\d{20}-[0-9a-f]{12})\.json")


@dataclass(frozen=True, slots=True)
class _OfTrial:
    trial_id: str

    def __post_init__(self) -> None:
        validator = Validator(type(self).__name__)
        validator.check_name("trial_id", self.trial_id)
        validator.raise_any()


@dataclass(frozen=True, slots=True)
class PauseTrial(_OfTrial):
    """Pause a trial once it has saved, until `ResumeTrial`; it gives up its bundles.

    A function pauses at its next report with a checkpoint, a class after its next step. What waits for
    its bundles pauses at once.

    Args:
        trial_id: Such as a1b2c_00003; its number will do, such as 3.

    Raises:
        ConfigError: It is no text.

    Example:
        >>> PauseTrial("a1b2c_00003")
        PauseTrial(trial_id='a1b2c_00003')
    """


@dataclass(frozen=True, slots=True)
class ResumeTrial(_OfTrial):
    """Let a trial that was paused by a request go on.

    Args:
        trial_id: Such as a1b2c_00003; its number will do, such as 3.

    Raises:
        ConfigError: It is no text.
    """


@dataclass(frozen=True, slots=True)
class StopTrial(_OfTrial):
    """End a trial at its next report, or at once if it does not run: it is TERMINATED.

    Searcher and scheduler learn that it is over. One that does not report within `RunConfig.stop_timeout_s`
    is killed.

    Args:
        trial_id: Such as a1b2c_00003; its number will do, such as 3.

    Raises:
        ConfigError: It is no text.
    """


@dataclass(frozen=True, slots=True)
class PauseExperiment:
    """Start no more trials, and pause those that run as `PauseTrial` does; the driver stays and waits."""


@dataclass(frozen=True, slots=True)
class ResumeExperiment:
    """Go on after `PauseExperiment`; trials that were paused one by one stay so."""


@dataclass(frozen=True, slots=True)
class StopExperiment:
    """End the experiment as a stopper would: trials TERMINATED, the flow run Completed.

    Args:
        reason: Is shown as why it ended.

    Raises:
        ConfigError: It is no text.
    """

    reason: str = "stopped on request"

    def __post_init__(self) -> None:
        validator = Validator("StopExperiment")
        validator.check_name("reason", self.reason)
        validator.raise_any()


@dataclass(frozen=True, slots=True)
class AddConfiguration:
    """Run a configuration as one more trial, beyond `num_samples`.

    Args:
        config: A value for everything that the search space leaves open, nested like it; what is fixed
            there may be left out.

    Raises:
        ConfigError: It is no dict, or holds what JSON cannot.

    Example:
        >>> AddConfiguration({"lr": 0.01})
        AddConfiguration(config={'lr': 0.01})
    """

    config: dict[str, Any]

    def __post_init__(self) -> None:
        given: Any = self.config
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise ConfigError(
                f"AddConfiguration(config={shorten(given)}): expected a dict with texts as keys"
            )
        if holds_opaque(loads(dumps(given))):
            raise ConfigError(
                f"AddConfiguration(config={shorten(given)}): expected what JSON can hold, since it is sent as a file"
            )


@dataclass(frozen=True, slots=True)
class RaiseNumSamples:
    """Extend the experiment while it runs.

    Args:
        num_samples: The new `TuneConfig.num_samples`, more than now.

    Raises:
        ConfigError: It is no integer of at least 1.
    """

    num_samples: int

    def __post_init__(self) -> None:
        validator = Validator("RaiseNumSamples")
        validator.check_integer("num_samples", self.num_samples, minimum=1)
        validator.raise_any()


@dataclass(frozen=True, slots=True)
class LoosenStop:
    """Let trials go on longer than `RunConfig(stop={…})` says: those that run, and those that will.

    Args:
        stop: The new bounds instead of all those before: none may be new, none below what it was.

    Raises:
        ConfigError: It is no dict of numbers.

    Example:
        >>> LoosenStop({"training_iteration": 200})
        LoosenStop(stop={'training_iteration': 200})
    """

    stop: dict[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.stop, dict):
            raise ConfigError(f"LoosenStop(stop={shorten(self.stop)}): expected a dict of metric and bound")
        DictStopper(self.stop)


@dataclass(frozen=True, slots=True)
class ChangeSpace:
    """Draw parameters from other values from now on: with more of them, fewer, or parameters that are new.

    Trials that there are stay what they are; the searcher learns from those whose configuration is of the new
    space. No parameter becomes one of another kind, and an experiment with a grid keeps its space.

    Args:
        parameters: By name, a sampler, or as JSON has it: `{"uniform": [0, 1]}`, `{"choice": [16, 32, 64]}`,
            `{"loguniform": {"lower": 1e-5, "upper": 1}}`. A nested one is named `net/width`.

    Raises:
        ConfigError: It is no dict of samplers.

    Example:
        >>> ChangeSpace({"lr": {"loguniform": [1e-5, 1]}})
        ChangeSpace(parameters={'lr': {'$sampler': 'loguniform', 'arguments': [1e-05, 1]}})
    """

    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        given: Any = self.parameters
        if not isinstance(given, dict) or not given or not all(isinstance(key, str) and key for key in given):
            raise ConfigError(
                f"ChangeSpace(parameters={shorten(given)}): expected a dict of a parameter's name and its sampler"
            )
        samplers = {name: sampler_of(name, value) for name, value in given.items()}
        described = loads(dumps(describe_value(samplers)))
        lacking = [name for name, value in described.items() if "$undescribed" in str(value)]
        if lacking:
            raise ConfigError(
                f"ChangeSpace: {', '.join(lacking)}: expected values that JSON can hold, since they are sent as a file"
            )
        object.__setattr__(self, "parameters", described)


#: What can be asked of a running experiment.
Request: TypeAlias = (
    PauseTrial
    | ResumeTrial
    | StopTrial
    | PauseExperiment
    | ResumeExperiment
    | StopExperiment
    | AddConfiguration
    | RaiseNumSamples
    | LoosenStop
    | ChangeSpace
)
REQUESTS: dict[str, type[Request]] = {
    kind.__name__: kind
    for kind in (
        PauseTrial,
        ResumeTrial,
        StopTrial,
        PauseExperiment,
        ResumeExperiment,
        StopExperiment,
        AddConfiguration,
        RaiseNumSamples,
        LoosenStop,
        ChangeSpace,
    )
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an experiment's driver answered.

    Attributes:
        accepted: Whether the request is in the journal, and so will be, or is, carried out.
        message: What happens now, or why it was refused.
    """

    accepted: bool
    message: str


def request_to_dict(request: Request) -> dict[str, Any]:
    """Return a request as the JSON object that the inbox holds.

    Example:
        >>> request_to_dict(StopTrial("a1b2c_00003"))
        {'request': 'StopTrial', 'trial_id': 'a1b2c_00003'}
    """
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    return {"request": type(request).__name__, **values}


def request_from_dict(data: Mapping[str, Any]) -> Request:
    """Rebuild a request.

    Raises:
        ConfigError: It is none that this version knows, or has wrong values.
    """
    values = {key: value for key, value in data.items() if key != "request"}
    kind = REQUESTS.get(str(data.get("request")))
    if kind is None:
        raise ConfigError(f"request={data.get('request')!r}: expected one of {', '.join(REQUESTS)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error


# Asking.


def post(storage: ExperimentStorage, request: Request) -> str:
    """Put a request into the inbox of the experiment that runs now; return the request's id.

    Raises:
        NotSteered: There is no experiment, or it has ended.
        StorageError: The storage refuses or does not answer.
    """
    last = last_segment(storage)
    if last is None:
        raise NotSteered(
            f"{storage.url} holds no experiment: expected the <storage_path>/<name> of one that runs"
        )
    if storage.experiment_id not in (None, last.experiment_id):
        raise NotSteered(
            f"{storage.url}: {storage.label} does not run: another experiment of this name has written since"
        )
    if last.is_last:
        raise NotSteered(
            f"the experiment at {storage.url} has ended, or was interrupted, so nobody carries out a request: "
            "Tuner.restore goes on with it"
        )
    # Names sort in the order in which they were sent.
    request_id = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}"
    sent = {
        "format": FORMAT,
        "experiment_id": last.experiment_id,
        "sender": _sender(),
        **request_to_dict(request),
    }
    storage.create(f"{DIRECTORY}/{request_id}.json", dumps(sent))
    return request_id


def reply_to(storage: ExperimentStorage, request_id: str) -> Reply | None:
    """Return the answer to a request; None: there is none yet.

    Raises:
        StorageError: The storage refuses or does not answer.
    """
    try:
        data = loads(storage.read(f"{DIRECTORY}/{request_id}{_REPLY}"))
    except FileNotFoundError:
        return None
    return Reply(data["accepted"], data["message"])


def send(
    storage: ExperimentStorage,
    request: Request,
    timeout_s: float = TIMEOUT_S,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Reply:
    """Ask the experiment that runs in a storage for something, and wait for the answer.

    When this returns an accepted reply, the request is in the experiment's journal: it survives the
    death of the driver.

    Args:
        storage: The experiment's.
        request: What is asked for.
        timeout_s: How long to wait, in seconds.
        clock: Monotonic seconds.
        sleep: Waits for so many seconds.

    Raises:
        NotSteered: There is no experiment, or it has ended, or there was no answer in time. Then the
            request stays: the driver, or the next one that resumes the experiment, carries it out.
        StorageError: The storage refuses or does not answer.
    """
    request_id = post(storage, request)
    deadline = clock() + timeout_s
    while True:
        is_over = clock() >= deadline
        try:
            reply = reply_to(storage, request_id)
        except StorageError:
            if is_over:
                raise
            reply = None  # the request is on its way, and the storage may come back
        if reply is not None:
            return reply
        if is_over:
            raise NotSteered(_unanswered(storage, request_id, timeout_s))
        sleep(0.2 if storage.is_local else 1.0)


def steer(
    path: str | os.PathLike[str],
    request: Request,
    *,
    storage_options: Mapping[str, Any] | None = None,
    storage_filesystem: Any = None,
    timeout_s: float = TIMEOUT_S,
) -> Reply:
    """Ask a running experiment for something: to pause, go on or stop, or to try more.

    Works from any machine that may write to the experiment's storage. When this returns an accepted
    reply, the request is in the experiment's journal, and so survives the death of its driver.

    Args:
        path: `<storage_path>/<name>` of the experiment: a local path or a URL.
        request: One of `tune_core.steering.inbox`: `PauseTrial`, `ResumeTrial`, `StopTrial`, `PauseExperiment`,
            `ResumeExperiment`, `StopExperiment`, `AddConfiguration`, `RaiseNumSamples`, `LoosenStop`,
            `ChangeSpace`.
        storage_options: fsspec options for a URL.
        storage_filesystem: An fsspec or pyarrow filesystem that `path` is in.
        timeout_s: How long to wait for the answer, in seconds.

    Returns:
        Whether it was accepted, and what happens now, or why not.

    Raises:
        NotSteered: There is no experiment, or it has ended, or there was no answer in time. Then the
            request stays: the driver, or the next one that resumes the experiment, carries it out.
        ConfigError: The path cannot be one.
        StorageError: The storage refuses or does not answer.

    Example:
        >>> import tune_core as tune
        >>> from tune_core.steering.inbox import StopTrial
        >>> tune.steer("s3://bucket/runs/digits", StopTrial("a1b2c_00003"))  # doctest: +SKIP
        Reply(accepted=True, message='trial a1b2c_00003 stops at its next report')

    Source: beyond Ray Tune.
    """
    if type(request) not in REQUESTS.values():
        raise ConfigError(f"request={shorten(request)}: expected one of {', '.join(REQUESTS)}")
    storage = experiment_at(path, filesystem=storage_filesystem, storage_options=storage_options)
    return send(storage, request, timeout_s)


def _sender() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"{os.getuid()}@{socket.gethostname()}"


def _unanswered(storage: ExperimentStorage, request_id: str, timeout_s: float) -> str:
    numbers = segment_numbers(storage)
    last = last_segment(storage)
    owner = ", ".join(f"{key} {value}" for key, value in (last.owner if last else {}).items())
    seen = "has closed its journal meanwhile" if last is not None and last.is_last else "has not answered"
    place = f"{storage.url}/{DIRECTORY}/{request_id}.json"
    return (
        f"the driver of {storage.url} ({owner}) {seen} within {timeout_s:g} s; its journal has {len(numbers)} "
        f"segments. If it is dead, resume the experiment. The request stays, and the experiment's next driver "
        f"carries it out: delete {place} to withdraw it"
    )


# Answering.


class Inbox:
    """The driver's end: what is new, in the order in which it was sent, and the answers.

    Args:
        storage: The experiment's.
        experiment_id: Which experiment of this name is driven.
    """

    def __init__(self, storage: ExperimentStorage, experiment_id: str) -> None:
        self._storage, self._experiment_id = storage, experiment_id
        self._seen: set[str] = set()

    @property
    def poll_s(self) -> float:
        """How often to look, in seconds."""
        return POLL_LOCAL_S if self._storage.is_local else POLL_REMOTE_S

    def poll(self) -> Iterator[tuple[str, Request]]:
        """Yield requests that have come since the last call, each with its id.

        What cannot be read, or is meant for an earlier experiment of this name, is refused at once.

        Raises:
            StorageError: The storage refuses or does not answer; what was not yielded yet is, next time.
        """
        names = self._storage.list(DIRECTORY)
        answered = {name.removesuffix(_REPLY) for name in names if name.endswith(_REPLY)}
        for name in names:
            match = _REQUEST.fullmatch(name)
            if match is None or match[1] in self._seen or match[1] in answered:
                continue
            request_id = match[1]
            try:
                request = self._read(request_id)
            except FileNotFoundError:
                continue  # withdrawn
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                self.answer(request_id, Reply(False, f"the request cannot be read: {brief(error)}"))
                self._seen.add(request_id)
            else:
                self._seen.add(request_id)
                yield request_id, request

    def answer(self, request_id: str, reply: Reply) -> None:
        """Write the answer; nothing happens if there is one already.

        Raises:
            StorageError: The storage refuses or does not answer.
        """
        data = {"accepted": reply.accepted, "message": reply.message, "write_id": uuid.uuid4().hex}
        try:
            self._storage.create(f"{DIRECTORY}/{request_id}{_REPLY}", dumps(data))
        except CreateConflict:
            return

    def _read(self, request_id: str) -> Request:
        data = loads(self._storage.read(f"{DIRECTORY}/{request_id}.json"))
        if data["format"] != FORMAT:
            raise ConfigError(f"format={data['format']!r}: this version of prefect-tune reads {FORMAT}")
        if data["experiment_id"] != self._experiment_id:
            raise ConfigError(
                f"it is meant for experiment {data['experiment_id']}, which another one of this name has followed"
            )
        body = {key: value for key, value in data.items() if key not in ("format", "experiment_id", "sender")}
        return request_from_dict(body)
