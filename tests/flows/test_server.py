"""What a server that is started for a run does otherwise than Prefect's default; one test asks a real one."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.context import SyncClientContext
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.query_components import AioSqliteQueryComponents, AsyncPostgresQueryComponents
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.services import task_run_recorder
from prefect.server.utilities.messaging.memory import MemoryMessage
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_CSRF_PROTECTION_ENABLED,
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED,
    get_current_settings,
    temporary_settings,
)
from prefect.types._datetime import now
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flows import server_process
from flows.contact import Contact
from flows.run_context import client_for, settings_for
from flows.server import PrefectServer, client_options
from flows.server_process import (
    RECORD_EVERY_S,
    insert_rows_apart,
    keep_rows_apart,
    lock_early,
    read_once,
    record_soon,
    spared_services,
)


@pytest.fixture(autouse=True)
def environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED.name, raising=False)


def evaluates_automations(database_url: str) -> bool:
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: database_url}), spared_services():
        return get_current_settings().server.services.triggers.enabled


def database(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite+aiosqlite:///{path}"


def test_server_without_automations_does_not_look_for_their_events(tmp_path: Path) -> None:
    assert not evaluates_automations(f"sqlite+aiosqlite:///{tmp_path}/not there.db")
    assert not evaluates_automations(database(tmp_path / "not migrated.db", "CREATE TABLE other (id)"))
    assert not evaluates_automations(database(tmp_path / "none?.db", "CREATE TABLE automation (id)"))


def test_server_that_has_automations_or_may_have_some_looks_for_their_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ("CREATE TABLE automation (id)", "INSERT INTO automation VALUES (1)")
    (tmp_path / "damaged.db").write_bytes(b"no database " * 1000)

    assert evaluates_automations(database(tmp_path / "one.db", *one))
    assert evaluates_automations(f"sqlite+aiosqlite:///{tmp_path}/damaged.db")
    assert evaluates_automations("postgresql+asyncpg://user:password@127.0.0.1/prefect")
    monkeypatch.setenv(PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED.name, "true")
    assert evaluates_automations(f"sqlite+aiosqlite:///{tmp_path}/not there.db")


def test_states_of_task_runs_are_written_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"write_batch_size", "flush_every"} <= {*inspect.signature(task_run_recorder.consumer).parameters}
    made_with: list[dict[str, Any]] = []

    @asynccontextmanager
    async def stock(**options: Any) -> AsyncIterator[Callable[[], None]]:
        made_with.append(options)
        yield lambda: None

    async def start() -> None:
        async with task_run_recorder.consumer(write_batch_size=30, flush_every=5):
            pass

    monkeypatch.setattr(task_run_recorder, "consumer", stock)
    monkeypatch.setattr(server_process, "_record_now", None)

    record_soon()
    asyncio.run(start())

    assert made_with == [{"write_batch_size": 30, "flush_every": RECORD_EVERY_S}]


class Base(DeclarativeBase):
    """What the rows below belong to."""


class Run(Base):
    __tablename__ = "run"
    number: Mapped[int] = mapped_column("no", primary_key=True)
    name: Mapped[str] = mapped_column(default="nameless")
    seen: Mapped[str | None]


def inserted(insert: Callable[[Any], Insert]) -> tuple[list[tuple[Any, ...]], int]:
    """Insert rows in all ways that Prefect does; return them, and how many statements were of one row each."""

    class ListenedTo(Session):
        pass

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    sent: list[bool] = []
    event.listen(engine, "before_cursor_execute", lambda *statement: sent.append(statement[5]))
    event.listen(ListenedTo, "do_orm_execute", insert_rows_apart)
    with ListenedTo(engine) as session:
        session.execute(insert(Run).values([{"number": 1, "seen": "before"}, {"number": 2, "seen": None}]))
        again = insert(Run).values([{"no": 2, "seen": "again"}, {"no": 3, "seen": "new"}])
        changed = {"seen": again.excluded.seen}
        session.execute(again.on_conflict_do_update(index_elements=["no"], set_=changed))
        session.execute(insert(Run).values(number=4, name="one"))
        session.execute(insert(Run), [{"number": 5, "name": "many"}, {"number": 6, "name": "more"}])
        told = insert(Run).values([{"number": 7}, {"number": 8}]).returning(Run.number)
        assert session.scalars(told).all() == [7, 8]
        found = session.execute(select(Run.number, Run.name, Run.seen).order_by(Run.number)).all()
    return [tuple(row) for row in found], sent.count(True)


def test_rows_that_are_inserted_apart_are_those_of_one_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AioSqliteQueryComponents, "insert", AioSqliteQueryComponents.insert)
    monkeypatch.setattr(AsyncPostgresQueryComponents, "insert", AsyncPostgresQueryComponents.insert)
    monkeypatch.setattr("flows.server_process.event", Mock())  # the sessions of this process stay as they are
    rows_of_prefect, apart_of_prefect = inserted(AioSqliteQueryComponents().insert)

    keep_rows_apart()
    rows, apart = inserted(AioSqliteQueryComponents().insert)

    assert rows == rows_of_prefect
    assert rows[:3] == [(1, "nameless", "before"), (2, "nameless", "again"), (3, "nameless", "new")]
    assert (apart, apart_of_prefect) == (3, 1)


def test_text_of_an_event_is_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReceivedEvent, "model_validate_json", ReceivedEvent.model_validate_json)
    happened = ReceivedEvent(
        occurred=now("UTC"), event="it.happened", resource={"prefect.resource.id": "that"}, id=uuid4()
    )
    text = happened.model_dump_json().encode()
    other = text.replace(b"happened", b"ended")

    read_once()

    assert ReceivedEvent.model_validate_json(text) is ReceivedEvent.model_validate_json(
        bytes(bytearray(text))
    )
    assert ReceivedEvent.model_validate_json(text) == happened
    assert ReceivedEvent.model_validate_json(other).event == "it.ended"


async def ask_to_record(recorded: list[str]) -> None:
    """Hand the recorder the event of a task run; ask it to record what it has."""
    happened = ReceivedEvent(
        occurred=now("UTC"),
        event="prefect.task-run.Completed",
        resource={"prefect.resource.id": f"prefect.task-run.{uuid4()}", "prefect.orchestration": "client"},
        id=uuid4(),
    )
    async with task_run_recorder.consumer(write_batch_size=30, flush_every=3600) as handler:
        await handler(MemoryMessage(happened.model_dump_json().encode(), {}))
        assert not recorded
        assert server_process._record_now is not None
        await server_process._record_now()
        assert recorded == ["prefect.task-run.Completed"]


def test_states_of_task_runs_are_written_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []

    async def record(events: Sequence[ReceivedEvent]) -> None:
        recorded.extend(each.event for each in events)

    monkeypatch.setattr(task_run_recorder, "record_bulk_task_run_events", record)
    monkeypatch.setattr(task_run_recorder, "consumer", task_run_recorder.consumer)
    monkeypatch.setattr(server_process, "_record_now", None)
    monkeypatch.setattr(server_process, "RECORD_EVERY_S", 3600)

    record_soon()

    asyncio.run(ask_to_record(recorded))


async def written_by_two_that_read_before(path: Path) -> list[str]:
    """Let one transaction write and commit while another has begun with reading; return what both have written."""
    config = AioSqliteConfiguration(database(path, "CREATE TABLE note (writer)"))
    has_read, may_write = asyncio.Event(), asyncio.Event()
    write = "INSERT INTO note VALUES (:writer)"

    async def slow() -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(text("SELECT * FROM note"))
            has_read.set()
            await may_write.wait()
            await session.execute(text(write), {"writer": "slow"})

    async def quick() -> None:
        await has_read.wait()
        asyncio.get_running_loop().call_later(0.2, may_write.set)
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(text(write), {"writer": "quick"})
        may_write.set()

    engine = await config.engine()
    try:
        await asyncio.gather(slow(), quick())
        async with await config.session(engine) as session:
            return [*await session.scalars(text("SELECT writer FROM note"))]
    finally:
        await engine.dispose()


def test_transaction_that_has_read_may_write_whoever_has_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(written_by_two_that_read_before(tmp_path / "of Prefect.db"))

    lock_early()

    assert asyncio.run(written_by_two_that_read_before(tmp_path / "ours.db")) == ["slow", "quick"]


def test_only_runs_whose_server_outlives_them_send_heartbeats() -> None:
    url = "http://127.0.0.1:1/api"

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}):
        with settings_for(PrefectServer(url, None, is_ours=True)):
            ours = get_current_settings()
        with settings_for(PrefectServer(url, None, is_ours=False)):
            others = get_current_settings()

    assert (ours.api.url, ours.flows.heartbeat_frequency) == (url, None)
    assert (others.api.url, others.flows.heartbeat_frequency) == (url, 45)


@pytest.mark.parametrize("is_protected", [False, True])
def test_clients_of_the_started_server_know_whether_it_wants_tokens(*, is_protected: bool) -> None:
    url = "http://127.0.0.1:1/api"

    with temporary_settings({PREFECT_SERVER_CSRF_PROTECTION_ENABLED: is_protected}):
        with settings_for(PrefectServer(url, None, is_ours=True)):
            ours = get_current_settings()
        with settings_for(PrefectServer(url, None, is_ours=False)):
            others = get_current_settings()

    assert ours.client.csrf_support_enabled is is_protected
    assert others.client.csrf_support_enabled


def test_settings_for_a_server_are_made_once() -> None:
    server = PrefectServer("http://127.0.0.1:1/api", None, is_ours=True)

    with settings_for(server):
        first = get_current_settings()
    with settings_for(server):
        second = get_current_settings()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}), settings_for(server):
        of_others = get_current_settings()

    assert second is first
    assert of_others is not first


def test_engine_and_whoever_asks_for_a_client_share_one_that_loads_no_certificates(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_certificates(**_: Any) -> None:
        raise AssertionError("certificates are loaded")

    monkeypatch.setattr("ssl.create_default_context", load_certificates)
    contact = Contact(api)

    with client_for(contact), SyncClientContext.get_or_create() as of_engine:
        client = get_client(sync_client=True)
        assert client is of_engine.client
        assert client.api_healthcheck() is None

    assert SyncClientContext.get() is None


def test_certificates_are_loaded_for_what_needs_them() -> None:
    assert "verify" not in client_options("https://prefect.example/api")
    assert client_options("http://127.0.0.1:4200/api", {"A": "b"})["headers"] == {"A": "b"}
    assert not client_options("http://127.0.0.1:4200/api")["verify"].get_ca_certs()


def test_pages_of_other_sites_may_not_read_what_the_started_server_has(api: str) -> None:
    def allowed(origin: str) -> str | None:
        answer = httpx.get(f"{api}/health", headers={"Origin": origin})
        assert answer.status_code == 200
        return answer.headers.get("access-control-allow-origin")

    own = api.removesuffix("/api")

    assert allowed("https://example.com") is None
    assert allowed("http://127.0.0.1:1") is None
    assert allowed(own) == own
    assert allowed(own.replace("127.0.0.1", "localhost")) == own.replace("127.0.0.1", "localhost")
