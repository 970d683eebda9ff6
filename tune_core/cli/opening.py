"""From what is typed to an experiment on a storage: paths, credentials, and what is there instead.

Never executes or changes what is stored, and never shows credentials. Prefect is imported only where its
settings or its server have to be asked.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from cyclopts import Parameter

from tune_core.control.namesakes import chosen
from tune_core.control.segments import DIRECTORY, segment_numbers
from tune_core.errors import ConfigError, StorageError
from tune_core.logger.rows import PARAMS_FILE, RESULT_FILE
from tune_core.storage.experiment_storage import ExperimentStorage, split_number, split_path
from tune_core.storage.filesystems import brief, check_name, resolve, without_credentials
from tune_core.storage.transfer import in_parallel
from tune_core.text import first_few, quantity
from tune_core.validation import suggestion

logger = logging.getLogger(__name__)

#: What a path of this machine looks like, whatever place is configured.
_LOCAL = re.compile(r"(/|~|\./|\.\./|\.$|\.\.$|file://|local://)")
#: At most this many names in a message.
_NAMES_SHOWN = 8
_DIRECTORY_IS_NEEDED = (
    "expected <storage_path>/<name> of an experiment: a path, a URL, or a name below the configured place"
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Access:
    """How to get to a storage: options of the commands that read or write one."""

    store: Annotated[
        str | None, Parameter(help="Name of the ExperimentStore block that has URL and credentials.")
    ] = None
    storage_options: Annotated[
        str | None,
        Parameter(
            help="fsspec options as a JSON object, or @FILE that holds one; credentials rather come from the "
            "environment, since other users see command lines."
        ),
    ] = None

    def __repr__(self) -> str:
        return f"Access(store={self.store!r}, storage_options={'…' if self.storage_options else None})"


_DEFAULT = Access()


@dataclass(frozen=True, slots=True)
class Place:
    """A storage path with what it takes to open it.

    Attributes:
        url: As `RunConfig.storage_path` takes it.
        options: `RunConfig.storage_options`; secrets may be in it.
    """

    url: str
    options: dict[str, Any] | None

    def __repr__(self) -> str:
        return f"Place({self.url!r})"

    def experiment(self, name: str) -> ExperimentStorage:
        """Return the storage of an experiment below it."""
        return ExperimentStorage.open(self.url, name, storage_options=self.options)


def place_of(path: str | None, access: Access | None = None) -> Place:
    """Return the place that a path means, with the options of the block, of the settings, or those given.

    Args:
        path: A path of this machine (`/…`, `./…`, `~/…`), a URL, or a path below the configured place;
            None: that place.
        access: What else was typed.

    Raises:
        ConfigError: Options or settings are wrong, or the block cannot be had.
    """
    access = access or _DEFAULT
    if access.storage_options is not None:
        if access.store is not None:
            raise ConfigError(
                "--store and --storage-options: the block has its own options, give one of them"
            )
        if path is None:
            raise ConfigError("--storage-options without a path: say for which")
        if without_credentials(path) not in (path, path.rstrip("/")):
            raise ConfigError(
                f"{without_credentials(path)}: give what is before @ and after ? as --storage-options, too: "
                "paths are shown"
            )
        return Place(path, _parsed_options(access.storage_options))
    if path is not None and access.store is None and _LOCAL.match(path):
        return Place(path, None)
    from tune_core.engine.settings import storage_of

    url, options = storage_of(path, access.store)
    return Place(url, options)


def _parsed_options(text: str) -> dict[str, Any]:
    source = "--storage-options"
    if text.startswith("@"):
        source = f"--storage-options {text}"
        try:
            text = Path(text[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}") from None
    try:
        options = json.loads(text)
    except ValueError:
        options = None  # the text itself may be a secret
    if not isinstance(options, dict):
        raise ConfigError(
            f'{source}: expected a JSON object, such as {{"endpoint_url": "https://s3.example.com"}}'
        )
    return options


def open_experiment(path: str, access: Access | None = None) -> tuple[ExperimentStorage, Place]:
    """Return the storage of an existing experiment, and the place that its directory is in.

    The path may end in `@1`: of several experiments of that name, the one that began first.

    Raises:
        ConfigError: The path cannot be used.
        StorageError: No experiment is there; the text says what is. Or the storage does not answer.
    """
    path, number = split_number(path)
    whole = place_of(path, access)
    parent, name = split_path(whole.url)
    if name in (".", "..", "~"):
        raise ConfigError(f"path {path!r}: {_DIRECTORY_IS_NEEDED}")
    place = Place(parent, whole.options)
    storage = place.experiment(name)
    if not segment_numbers(storage):
        raise StorageError(f"{storage.url} holds no experiment: {_found_instead(place, storage)}")
    return (storage if number is None else chosen(storage, number)), place


def experiment_names(place: Place) -> list[str]:
    """Return the names of the experiments directly below a place, sorted; [] if there is nothing.

    Raises:
        StorageError: The storage does not answer.
    """
    storage = ExperimentStorage(*resolve(place.url, None, place.options), "")
    names = [name for name in storage.list() if _may_be_named(name)]
    journals = in_parallel(lambda name: segment_numbers(place.experiment(name)), names)
    return [name for name, segments in zip(names, journals, strict=True) if segments]


def _may_be_named(name: str) -> bool:
    """Whether an experiment can have this name: others leave all kinds of names on a storage."""
    try:
        check_name(name, "experiment", nested=False)
    except StorageError:
        return False
    return split_number(name)[1] is None


def _found_instead(place: Place, storage: ExperimentStorage) -> str:
    names = storage.list()
    if {PARAMS_FILE, RESULT_FILE} & set(names):
        return f"it is the directory of a trial; the experiment is likely {place.url}"
    below = experiment_names(Place(f"{place.url.rstrip('/')}/{storage.name}", place.options)) if names else []
    if below:
        return f"it is a storage path with {_listed(below, 'experiment')}; give one of them"
    if names:
        return f"it holds {_listed(names, 'entry', 'entries')}, but no {DIRECTORY}/; {_DIRECTORY_IS_NEEDED}"
    beside = experiment_names(place)
    if beside:
        near = suggestion(storage.name, beside)
        return f"there is no such directory{near}; {place.url} has {_listed(beside, 'experiment')}"
    return f"there is no such directory, and no experiment in {place.url}"


def _listed(names: list[str], noun: str, plural: str = "") -> str:
    return f"{quantity(len(names), noun, plural)} ({first_few(names, _NAMES_SHOWN)})"


def driver_status(storage_url: str, owner: Mapping[str, Any]) -> str:
    """Return whether the driver that left a journal open is at work: "running", "died" or "unknown".

    A driver of this machine is looked for among its processes; of another one, its flow run is asked
    for at the Prefect server, if one is configured.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    from tune_core.engine.ownership import may_be_alive

    if owner.get("host") == socket.gethostname():
        return "running" if may_be_alive(dict(owner), storage_url) else "died"
    if "flow_run_id" not in owner or not get_current_settings().api.url:
        return "unknown"
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(owner["flow_run_id"])).state
    except (
        ObjectNotFound,
        httpx.HTTPError,
        OSError,
        RuntimeError,
    ) as error:  # the experiment is read all the same
        logger.warning("nobody can say whether the driver of %s lives: %s", storage_url, brief(error))
        return "unknown"
    return "died" if state is not None and state.is_final() else "running"
