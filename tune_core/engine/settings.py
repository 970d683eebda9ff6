"""What a machine says about how experiments run on it: where they are kept, with which credentials, on which Ray.

The only place that reads these from the environment. It imports Prefect, never Ray.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NamedTuple, Self

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.settings.base import PrefectBaseSettings, PrefectSettingsConfigDict, build_settings_config
from prefect.types import SecretDict
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from tune_core.engine.store import ExperimentStore, checked_url
from tune_core.errors import ConfigError, TuneError
from tune_core.storage.experiment_storage import DEFAULT_STORAGE_PATH
from tune_core.storage.filesystems import brief

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        # Its own text would show the credentials.
        raise ValueError(
            'expected a JSON object, such as {"endpoint_url": "https://s3.example.com"}'
        ) from None


class TuneSettings(PrefectBaseSettings):
    """Settings of prefect-tune, as Prefect reads its own.

    Each is an environment variable `PREFECT_INTEGRATIONS_TUNE_…`, a line of `.env`, or a value below
    `[integrations.tune]` in `prefect.toml` (`storage_options` is JSON text there too). They are defaults:
    what a deployment or a caller gives comes first.

    Example:
        >>> import os
        >>> os.environ["PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH"] = "s3://bucket/tuning"
        >>> TuneSettings().storage_path
        's3://bucket/tuning'
        >>> del os.environ["PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH"]
    """

    model_config = PrefectSettingsConfigDict(
        **build_settings_config(("integrations", "tune")),
        # A value that is refused is not shown: credentials may be in it.
        hide_input_in_errors=True,
    )

    storage_path: str | None = Field(
        default=None,
        description="Where experiments are kept, if they name no place: a path or an fsspec URL.",
    )
    storage_options: Annotated[SecretDict | None, BeforeValidator(_from_json)] = Field(
        default=None,
        description="Options of that place as a JSON object; for S3 endpoint_url, key, secret, or profile.",
    )
    store: str | None = Field(
        default=None,
        description="Name of an ExperimentStore block, instead of storage_path and storage_options.",
    )
    ray_address: str | None = Field(
        default=None,
        description="The Ray cluster of experiments that name none, as ray.init takes it; else RAY_ADDRESS.",
    )

    @field_validator("storage_path")
    @classmethod
    def _has_no_credentials(cls, path: str | None) -> str | None:
        return None if path is None else checked_url(path)

    @model_validator(mode="after")
    def _names_one_place(self) -> Self:
        if self.store is not None and (self.storage_path is not None or self.storage_options is not None):
            raise ValueError(
                "store and storage_path or storage_options are set: the block has both, set one way"
            )
        if self.storage_options is not None and self.storage_path is None:
            raise ValueError(
                "storage_options without storage_path: set both, since the options are for that place"
            )
        return self


def tune_settings() -> TuneSettings:
    """Return the settings as the environment is now.

    Raises:
        ConfigError: A value is wrong; the text names its variable, and never shows it.

    Example:
        >>> tune_settings().ray_address
    """
    try:
        return TuneSettings()
    except ValidationError as error:
        prefix = str(TuneSettings.model_config["env_prefix"])
        raise ConfigError(
            [
                f"{prefix}{str(fault['loc'][0]).upper() if fault['loc'] else '*'}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_context=False, include_url=False)
            ]
        ) from None


class Place(NamedTuple):
    """Where an experiment is kept, and how to get there.

    Attributes:
        url: Path or URL, as `RunConfig.storage_path` takes it; it has no credentials.
        options: `RunConfig.storage_options`, secrets among them; None: the process's own environment decides.
    """

    url: str
    options: dict[str, Any] | None

    def __repr__(self) -> str:
        shown = None if self.options is None else sorted(self.options)
        return f"Place(url={self.url!r}, options={shown})"


def storage_of(storage_path: str | None = None, store: str | None = None) -> Place:
    """Return where a run keeps its experiments, and the credentials for it.

    The place is that of the block, else of the settings. A `storage_path` beside it is a path below it,
    or a URL of the same kind, which is used with the same options. Without a block or a setting it is what
    `RunConfig.storage_path` is; without anything, `~/ray_results`.

    Args:
        storage_path: A path, relative to the block's or the settings' place if there is one, or a URL.
        store: Name of an `ExperimentStore` block; None: the one that the settings name, if they do.

    Returns:
        The place, as `(url, options)`.

    Raises:
        ConfigError: The block cannot be loaded, the path is of another kind than the block's, has credentials
            in it, or a setting is wrong. The text says what to do, and shows no credentials.

    Example:
        >>> storage_of("s3://bucket/tuning")
        Place(url='s3://bucket/tuning', options=None)
    """
    path = _checked(storage_path) if storage_path else None
    if store is not None:
        place = _place_of(store)
        if path is not None and _scheme(path) not in ("", _scheme(place.url)):
            raise ConfigError(
                f"storage_path {path!r} is not in the store {store!r}, which is {place.url}: give a path below "
                "it, or no store"
            )
        return _below(place, path)
    settings = tune_settings()
    if settings.store is not None:
        return _below(_place_of(settings.store), path)
    if settings.storage_path is not None:
        secret = settings.storage_options
        options = None if secret is None else dict(secret.get_secret_value()) or None
        return _below(Place(settings.storage_path, options), path)
    return Place(path or DEFAULT_STORAGE_PATH, None)


def _checked(path: str) -> str:
    try:
        return checked_url(path)
    except ValueError as error:
        raise ConfigError(f"storage_path {error}") from None


def _scheme(path: str) -> str:
    """The kind of place: `s3`, `file` …; "" for a path that is relative to one."""
    found = _SCHEME.match(path)
    if found is not None:
        return {"local": "file", "s3a": "s3"}.get(found[1].lower(), found[1].lower())
    return "file" if path.startswith(("/", "~")) else ""


def _below(place: Place, path: str | None) -> Place:
    if path is None:
        return place
    kind = _scheme(path)
    if kind == "":
        return Place(f"{place.url.rstrip('/')}/{path}", place.options)
    return Place(path, place.options if kind == (_scheme(place.url) or "file") else None)


def _place_of(name: str) -> Place:
    store = load_store(name)
    return Place(store.url, store.options())


def load_store(name: str) -> ExperimentStore:
    """Return the `ExperimentStore` block of that name from the Prefect server.

    Raises:
        ConfigError: There is none, or the server cannot be asked.
    """
    slug = ExperimentStore.get_block_type_slug()
    try:
        # Block.load would return a coroutine where an event loop runs, as in a notebook.
        with get_client(sync_client=True) as client:
            try:
                document = client.read_block_document_by_name(name, slug, include_secrets=True)
            except ObjectNotFound:
                known = _names_of_stores(client, slug)
                raise ConfigError(
                    f"store {name!r}: the Prefect server has no ExperimentStore block of that name (it has: "
                    f"{', '.join(known) or 'none'}). Make it in the UI under Blocks, or with "
                    f"ExperimentStore(url=…, storage_options=…).save({name!r})"
                ) from None
    except (httpx.TransportError, OSError, RuntimeError) as error:
        url = get_current_settings().api.url
        raise ConfigError(
            f"store {name!r}: no Prefect server answers at {url or 'PREFECT_API_URL, which is not set'} "
            f"({brief(error)}): start it, or set PREFECT_API_URL to one that runs"
        ) from None
    return ExperimentStore.model_validate(document.data)


def _names_of_stores(client: SyncPrefectClient, slug: str) -> list[str]:
    try:
        found = client.read_block_documents_by_type(slug, include_secrets=False)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        return []  # the type itself is not known: no block of it was ever saved
    return sorted(document.name for document in found if document.name)


def require_server() -> str:
    """Return the URL of the Prefect API that is configured, when it has answered.

    Raises:
        ConfigError: None is configured: Prefect would start one for each process, and nobody would see the runs.
        TuneError: It does not answer.

    Example:
        >>> require_server()  # doctest: +SKIP
        'http://127.0.0.1:4200/api'
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError(
            "PREFECT_API_URL is not set: start a server with `prefect server start`, and set it to "
            "http://127.0.0.1:4200/api"
        )
    error: Exception | None
    try:
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except httpx.InvalidURL as invalid:
        error = invalid
    if error is not None:
        raise TuneError(
            f"the Prefect server at {url} does not answer ({brief(error)}): start it with `prefect server start`, "
            "or set PREFECT_API_URL to one that runs"
        )
    return url
