"""The block with place and credentials on a real Prefect server."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.conftest import S3Server
from tests.support.prefect_server import free_port
from tune_core.engine.settings import Place, require_server, storage_of
from tune_core.engine.store import ExperimentStore
from tune_core.errors import ConfigError, TuneError


def test_a_saved_store_is_found_by_its_name_and_the_server_shows_no_secret(
    client: SyncPrefectClient, s3: S3Server
) -> None:
    name = f"store-{uuid.uuid4().hex[:8]}"
    with pytest.raises(ConfigError, match=f"store '{name}': the Prefect server has no ExperimentStore block"):
        storage_of(store=name)

    ExperimentStore(url=f"s3://{s3.bucket}/stored", storage_options=s3.storage_options).save(name)

    place = Place(f"s3://{s3.bucket}/stored/nightly", s3.storage_options)
    assert storage_of("nightly", name) == place

    async def in_a_loop() -> Place:  # as in a notebook
        return storage_of("nightly", name)

    assert asyncio.run(in_a_loop()) == place
    shown = client.read_block_document_by_name(name, "experiment-store", include_secrets=False)
    assert s3.secret not in str(shown)
    assert shown.data["url"] == f"s3://{s3.bucket}/stored"
    with pytest.raises(ConfigError, match=rf"\(it has: .*{name}.*\). Make it in the UI"):
        storage_of(store="another")


def test_without_a_server_it_is_said_which_one_does_not_answer(api: str) -> None:
    assert require_server() == api
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(ConfigError, match=f"store 'mine': no Prefect server answers at {url}"):
            storage_of(store="mine")
        with pytest.raises(TuneError, match=f"the Prefect server at {url} does not answer"):
            require_server()
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ConfigError, match="PREFECT_API_URL is not set: start a server"),
    ):
        require_server()
