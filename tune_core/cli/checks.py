"""What has to hold on a machine for experiments to run: versions, storage, Prefect server.

Each check looks for itself, says what it found, and what to do about it. None changes anything but a
probe object on the storage, which it removes. What needs Ray is in `ray_checks`.
"""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tune_core.errors import TuneError
from tune_core.masking import masked
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief, is_s3, resolve
from tune_core.storage.transfer import changed_at

#: A clock that is further off than this is worth knowing, in seconds.
SKEW_WARNS_S = 5.0
#: S3 refuses requests whose clock is further off, in seconds.
SKEW_FAILS_S = 900.0
#: How long a server may take to answer, in seconds.
ANSWER_TIMEOUT_S = 25.0

#: Whose requirements are compared with what is installed, each if it is.
_PACKAGES = ("prefect-tune", "prefect", "prefect-ray", "ray", "s3fs", "aiobotocore", "boto3", "optuna")
#: Extras of prefect-tune that no user needs.
_DEVELOPMENT = frozenset({"test", "lint", "bench", "examples"})
#: What the versions' own requirements do not say: package, versions that break, when, and the remedy.
_KNOWN = (
    (
        "fastapi",
        ">=0.155",
        ("prefect", "<3.9"),
        "Prefect's server dies at start with it: pip install 'fastapi<0.151'",
    ),
    ("prefect", "<3.8.8", None, "nothing here was tested with it: pip install -U 'prefect>=3.8.8,<3.10'"),
)

Outcome = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it was.
        outcome: "fail": experiments will not run as asked; "warn": they will, with a loss; "skip": it
            could not be looked at, since what it needs failed.
        found: What there is.
        remedy: What to do; "" if there is nothing to do.
    """

    name: str
    outcome: Outcome
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        # A configured address is quoted as it is, and may have a password in it.
        object.__setattr__(self, "found", masked(self.found))


# Versions.


def check_versions() -> list[Check]:
    """Return whether the installed versions are known to work together."""
    every = [*_python_faults(), *_known_faults(), *_requirement_faults()]
    faults = list(dict.fromkeys(every))  # several extras require one package
    shown = ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _installed(name)) is not None)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if not faults:
        return [Check("versions", "ok", f"{python}, {shown}")]
    return [Check("versions", outcome, found, remedy) for outcome, found, remedy in faults]


_Fault = tuple[Outcome, str, str]


def _python_faults() -> Iterator[_Fault]:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield (
            "warn",
            f"Python {sys.version.split()[0]}",
            "use Python 3.11 to 3.13: nothing was tested with others",
        )


def _known_faults() -> Iterator[_Fault]:
    from packaging.specifiers import SpecifierSet

    for name, versions, condition, remedy in _KNOWN:
        version = _installed(name)
        other = _installed(condition[0]) if condition else None
        applies = condition is None or (other is not None and other in SpecifierSet(condition[1]))
        if version is not None and applies and SpecifierSet(versions).contains(version, prereleases=True):
            yield "fail", f"{name} {version}" + (f" with {condition[0]} {other}" if condition else ""), remedy


def _requirement_faults() -> Iterator[_Fault]:
    """Yield what an installed package requires and does not have: pip lets later installs break earlier ones."""
    from packaging.requirements import Requirement

    for package in _PACKAGES:
        for text in _requirements(package):
            requirement = Requirement(text)
            extra = _extra_of(requirement, package)
            if extra is None:
                continue
            version = _installed(requirement.name)
            if version is None and not extra:
                yield "fail", f"{package} needs {requirement.name}, which is missing", _pip(requirement)
            elif version is not None and not requirement.specifier.contains(version, prereleases=True):
                wanted = f"{requirement.name}{requirement.specifier}"
                outcome: Outcome = "warn" if extra else "fail"
                yield (
                    outcome,
                    f"{requirement.name} {version}, but {package} needs {wanted}",
                    _pip(requirement),
                )


def _requirements(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _extra_of(requirement: Any, package: str) -> str | None:
    """Return the extra that a requirement belongs to, "" for none; None: it does not count here."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return ""
    if package != "prefect-tune":
        return None
    extras = set(metadata.metadata(package).get_all("Provides-Extra") or ()) - _DEVELOPMENT
    return next((each for each in sorted(extras) if requirement.marker.evaluate({"extra": each})), None)


def _pip(requirement: Any) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# Storage.


_STEPS = {
    "find its bucket": "bucket",
    "write to it": "write",
    "read from it": "read",
    "list it": "list",
    "write to it twice": "create-only writes",
    "delete from it": "delete",
}
#: Without these, what follows cannot be tried.
_NEEDED = frozenset({"bucket", "write"})


def check_storage(url: str, options: Mapping[str, Any] | None) -> list[Check]:
    """Return whether a storage does what an experiment needs of it, right by right.

    Args:
        url: As `RunConfig.storage_path` takes it.
        options: As `RunConfig.storage_options`; never shown.
    """
    try:
        storage = root_of(url, options)
    except TuneError as error:
        return [Check("storage", "fail", brief(error), "give a path or an fsspec URL that exists")]
    made: list[Path] = []
    if storage.is_local:
        here = Path(storage.path)
        made = [each for each in (here, *here.parents) if not each.exists()]
    checks: list[Check] = []
    stuck = ""
    for action, step in storage.probe_steps().items():
        name = _STEPS[action]
        if name == "bucket" and not is_s3(storage.fs):
            continue
        if stuck:
            checks.append(Check(f"storage: {name}", "skip", f"after {stuck} failed"))
            continue
        found = _try_step(storage, action, step)
        checks.append(found or Check(f"storage: {name}", "ok", storage.url))
        stuck = name if found is not None and name in _NEEDED else ""
    if checks[-1].outcome == "ok" and not storage.is_local:  # what cannot be deleted is not written again
        checks.append(_storage_clock(storage))
    for directory in made:
        with contextlib.suppress(OSError):  # somebody else uses it by now
            directory.rmdir()
    return checks


def root_of(url: str, options: Mapping[str, Any] | None) -> ExperimentStorage:
    """Return a storage path itself as a storage, so that a probe leaves no directory behind.

    Raises:
        ConfigError: It cannot be used.
    """
    filesystem, path, shown = resolve(url, None, options)
    return ExperimentStorage(filesystem, path, shown, "doctor")


def _try_step(storage: ExperimentStorage, action: str, step: Any) -> Check | None:
    """Run one step; return what is wrong, if anything."""
    try:
        storage.request(action, step, ANSWER_TIMEOUT_S)
    except TuneError as error:
        found, _, remedy = str(error).rpartition("; ")
        if not found:
            found, _, remedy = str(error).partition(": ")
        return Check(f"storage: {_STEPS[action]}", "fail", found, remedy)
    return None


def _storage_clock(storage: ExperimentStorage) -> Check:
    name = f".clock-{uuid.uuid4().hex}"

    def written_at() -> float:
        storage.fs.invalidate_cache()
        return changed_at(storage.fs.info(storage.absolute(name)))

    try:
        before = time.time()
        storage.write(name, b"")
        after = time.time()
        try:
            at = storage.request("look at its clock", written_at)
        finally:
            storage.delete(name)
    except TuneError as error:
        return Check("storage: clock", "skip", brief(error))
    return clock_check("storage: clock", skew(before, at, after, resolution_s=1.0), fails_at_s=SKEW_FAILS_S)


# Clocks.


def skew(before: float, remote: float, after: float, *, resolution_s: float = 0.0) -> float:
    """Return by how many seconds at least another clock is off, that was read between two times of this one.

    Example:
        >>> skew(10.0, 10.4, 11.0), skew(10.0, 17.0, 11.0), skew(10.0, 5.0, 11.0, resolution_s=1.0)
        (0.0, 6.0, -4.0)
    """
    if remote > after:
        return remote - after
    return min(0.0, remote + resolution_s - before)


def clock_check(name: str, off_s: float, fails_at_s: float = float("inf")) -> Check:
    """Return what a clock that is off by so many seconds means."""
    if abs(off_s) <= SKEW_WARNS_S:
        return Check(name, "ok", f"within {SKEW_WARNS_S:g} s of this machine's")
    outcome: Outcome = "fail" if abs(off_s) >= fails_at_s else "warn"
    way = "ahead of" if off_s > 0 else "behind"
    return Check(
        name, outcome, f"{abs(off_s):.0f} s {way} this machine's", "set both clocks by NTP: chronyc tracking"
    )


# Prefect's server.


def check_server() -> list[Check]:
    """Return whether the configured Prefect server answers, lets us in, and is of a version that fits."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        return [
            Check(
                "server",
                "warn",
                "none is configured: each run starts one of its own on this machine",
                "for schedules and several machines: prefect server start, and set PREFECT_API_URL",
            )
        ]
    import httpx

    try:
        before = time.time()
        answer = httpx.get(f"{url}/health", timeout=ANSWER_TIMEOUT_S)
        after = time.time()
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        remedy = "start it (prefect server start), or set PREFECT_API_URL to one that runs; check the network between"
        return [Check("server", "fail", f"{url} does not answer ({brief(error)})", remedy)]
    return [*_server_rights(url), *_server_clock(answer.headers, before, after)]


def _server_clock(headers: Mapping[str, str], before: float, after: float) -> Iterator[Check]:
    from email.utils import parsedate_to_datetime

    if "date" in headers:
        at = parsedate_to_datetime(headers["date"]).timestamp()
        yield clock_check("server: clock", skew(before, at, after, resolution_s=1.0))


def _server_rights(url: str) -> Iterator[Check]:
    import httpx
    from prefect import __version__
    from prefect.client.orchestration import get_client

    from tune_core.cli.automations import CRASH_DETECTION

    try:
        with get_client(sync_client=True) as client:
            version = client.api_version()
            client.read_flow_runs(limit=1)
            automations = client.read_automations_by_name(CRASH_DETECTION)
    except (httpx.HTTPError, RuntimeError) as error:
        remedy = "check PREFECT_API_KEY or PREFECT_API_AUTH_STRING, and that the server is of this version or newer"
        yield Check("server", "fail", f"{url} refuses ({brief(error)})", remedy)
        return
    if version.split(".")[:2] == __version__.split(".")[:2]:
        yield Check("server", "ok", f"{url}, Prefect {version}")
    else:
        found = f"{url} runs Prefect {version}, here is {__version__}"
        yield Check(
            "server",
            "warn",
            found,
            "use one minor version on both: newer clients call what older servers lack",
        )
    if any(automation.enabled for automation in automations):
        yield Check("crash detection", "ok", "installed")
    else:
        found = "not installed: a flow run whose process is killed stays Running, and is not tried again"
        yield Check("crash detection", "warn", found, "prefect-tune automations install")


def worst(checks: Iterable[Check]) -> Outcome:
    """Return the worst outcome of several checks.

    Example:
        >>> worst([Check("a", "ok", ""), Check("b", "warn", ""), Check("c", "skip", "")])
        'warn'
    """
    order: tuple[Outcome, ...] = ("ok", "skip", "warn", "fail")
    return max((check.outcome for check in checks), key=order.index, default="ok")
