"""The process of a Prefect server that is started here: Prefect's own, with what makes many short trials cheap.

Only that process imports this module: `python -m flows.server_process PORT`, started by `flows.server`.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    nullcontext,
    suppress,
)
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa
import uvicorn
from fastapi import Body, FastAPI, HTTPException
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.query_components import AioSqliteQueryComponents, AsyncPostgresQueryComponents
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.server.models.artifacts import emit_artifact_collection_created_event as emit_created
from prefect.server.models.artifacts import emit_artifact_collection_updated_event as emit_updated
from prefect.server.models.artifacts import update_artifact
from prefect.server.models.task_runs import count_task_runs
from prefect.server.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.server.schemas.core import Artifact
from prefect.server.schemas.filters import TaskRunFilter
from prefect.server.services import task_run_recorder
from prefect.server.utilities.messaging import MessageHandler
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED,
    temporary_settings,
)
from prefect.types._datetime import now
from sqlalchemy import Insert, Result, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Mapper, ORMExecuteState, Session
from starlette.routing import Mount

from flows.context import remember_settings
from flows.server import BULK_ARTIFACTS, COUNT_TASK_RUNS

#: How long the state of a task run may wait for others to be written with, in seconds, unless somebody asks for it.
RECORD_EVERY_S = 0.5
#: Events that have been read and may be asked for again: services take them up at about the same time.
_EVENTS_KEPT = 100
#: How often the server looks for garbage: a request makes thousands of objects, and hardly any cycle.
_GC_THRESHOLDS = (20_000, 20, 50)


def serve(port: int) -> None:
    """Run the server in this process until the pipe on standard input is closed."""
    remember_settings()
    record_soon()
    lock_early()
    read_once()
    keep_rows_apart()
    gc.freeze()  # what is imported stays: nothing need look for garbage in it
    gc.set_threshold(*_GC_THRESHOLDS)
    config = uvicorn.Config(
        create_app_with_more,
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="on",
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        # A page that is still open, or a request that hangs, must not keep the server.
        threading.Timer(8.0, os._exit, (1,)).start()

    threading.Thread(target=watch, daemon=True).start()
    with spared_services():
        server.run()
    os._exit(0)


def spared_services() -> AbstractContextManager[Any]:
    """Run no service that has nothing to do, unless the environment says so.

    To hold every event against no automation takes a fifth of what a short trial costs a server.
    """
    if PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED.name in os.environ or _may_have_automations():
        return nullcontext()
    return temporary_settings({PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED: False})


def _may_have_automations() -> bool:
    """Whether there is an automation in this server's database; True if that cannot be told."""
    url = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    if url.get_backend_name() != "sqlite" or not url.database:
        return True
    if not Path(url.database).exists():
        return False  # it is about to be made
    try:
        with closing(sqlite3.connect(f"file:{quote(url.database)}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE name = 'automation'").fetchone()
            return found is not None and database.execute("SELECT 1 FROM automation").fetchone() is not None
    except sqlite3.Error:
        return True


#: Has the states of task runs written that wait for others.
_record_now: Callable[[], Awaitable[None]] | None = None


def record_soon() -> None:
    """Write states of task runs that come alone after `RECORD_EVERY_S`: Prefect cuts its setting to whole seconds."""
    stock = task_run_recorder.consumer

    @asynccontextmanager
    async def consumer(**options: Any) -> AsyncIterator[MessageHandler]:
        global _record_now  # noqa: PLW0603 - one recorder a server
        async with stock(**options | {"flush_every": RECORD_EVERY_S}) as handler:
            # Prefect keeps it to itself. Without it states are written when it is their time.
            _record_now = inspect.getclosurevars(handler).nonlocals.get("flush")
            yield handler

    task_run_recorder.consumer = consumer  # type: ignore[assignment] # it is called with keywords alone


def read_once() -> None:
    """Read an event once for all services that it is handed to: each of them validates the same text."""
    stock = ReceivedEvent.model_validate_json
    ReceivedEvent.model_validate_json = functools.lru_cache(_EVENTS_KEPT)(stock)  # type: ignore[assignment, method-assign]


def lock_early() -> None:
    """Have transactions take SQLite's lock when they begin.

    Most of Prefect's begin with reading. Those fail at once, "database is locked", if somebody else has written before
    they do: a run that is created while the one before it is still recorded has been put off by two seconds for that.
    """
    stock = AioSqliteConfiguration.begin_transaction

    def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        return stock(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[assignment]


class _RowsApart(Insert):
    """An insertion that keeps many rows for `insert_rows_apart`: to look up each of their columns takes long."""

    inherit_cache = False  # as those of the dialects, whose ON CONFLICT is in no key
    rows: Sequence[Mapping[str, Any]] = ()

    def values(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != 1 or not isinstance(args[0], list) or not args[0]:
            return super().values(*args, **kwargs)
        statement = self._generate()
        statement.rows = args[0]
        return statement

    def _execute_on_connection(self, *args: Any, **kwargs: Any) -> Any:
        assert not self.rows, "many rows are inserted by way of a session: see `insert_rows_apart`"
        return super()._execute_on_connection(*args, **kwargs)


class _SqliteRowsApart(_RowsApart, sqlite.Insert):
    inherit_cache = False


class _PostgresRowsApart(_RowsApart, postgresql.Insert):
    inherit_cache = False


def keep_rows_apart() -> None:
    """Have many rows inserted by a statement of one row that is executed for each of them.

    Prefect writes `INSERT … VALUES (…), (…), …`, which SQLAlchemy compiles anew for each number of rows. That, and
    to look up each of their columns in the ORM, takes as long as all else about an insertion.
    """
    AioSqliteQueryComponents.insert = lambda self, obj: _SqliteRowsApart(obj)  # type: ignore[method-assign]
    AsyncPostgresQueryComponents.insert = lambda self, obj: _PostgresRowsApart(obj)  # type: ignore[method-assign]
    event.listen(Session, "do_orm_execute", insert_rows_apart)


def insert_rows_apart(state: ORMExecuteState) -> Result[Any] | None:
    """Execute an insertion of many rows as `keep_rows_apart` says."""
    statement: Any = state.statement
    if not isinstance(statement, _RowsApart) or not statement.rows:
        return None
    one, rows = statement._clone(), statement.rows
    one.rows = ()
    if statement._returning:
        return state.session.execute(Insert.values(one, rows))
    columns = _columns(state.bind_mapper)
    named = [{columns[name]: value for name, value in row.items()} for row in rows]
    return state.session.execute(one, named, execution_options={"dml_strategy": "raw"})


@functools.cache
def _columns(mapper: Mapper[Any]) -> dict[str, str]:
    """Return the keys of a table's columns, by the names that a row may have for them."""
    of_attributes = {name: column.key for name, column in mapper.columns.items()}
    return {column.key: column.key for column in mapper.local_table.columns} | of_attributes


def create_app_with_more() -> FastAPI:
    """Return Prefect's application with more routes in its API: what takes many requests there takes one here."""
    app = create_app()
    (api,) = (route.app for route in app.routes if isinstance(route, Mount) and route.path == "/api")
    assert isinstance(api, FastAPI)
    api.post(BULK_ARTIFACTS, status_code=201)(write_artifacts)
    api.post(COUNT_TASK_RUNS)(count_recorded)
    return app


async def write_artifacts(
    new: Annotated[list[ArtifactCreate], Body()], changed: Annotated[dict[UUID, Any], Body()]
) -> list[UUID]:
    """Create artifacts that have keys, and change data of others, all or none, as Prefect does each; return new ids.

    One by one they cost a server a third of what a short trial does.
    """
    rows = [_row(Artifact(**artifact.model_dump())) for artifact in new]
    async with provide_database_interface().session_context(begin_transaction=True) as session:
        if rows:
            await _create(session, rows)
        for artifact_id, data in changed.items():
            update = ArtifactUpdate.model_validate({"data": data})
            if not await update_artifact(session, artifact_id, update):  # type: ignore[attr-defined] # its decorator
                raise HTTPException(status_code=404, detail=f"Artifact {artifact_id} not found.")
    return [row["id"] for row in rows]


async def _create(session: AsyncSession, rows: list[dict[str, Any]]) -> None:
    latest = [{"latest_id" if name == "id" else name: row[name] for name in row} for row in rows]
    db, raw = provide_database_interface(), {"dml_strategy": "raw"}
    insert = db.queries.insert(db.ArtifactCollection)
    changed = {name: insert.excluded[name] for name in latest[0] if name not in ("key", "created")}
    upsert = insert.on_conflict_do_update(index_elements=["key"], set_=changed)
    newest = sa.select(db.ArtifactCollection).where(
        db.ArtifactCollection.key.in_([row["key"] for row in rows])
    )
    await session.execute(upsert, latest, execution_options=raw)
    await session.execute(db.queries.insert(db.Artifact), rows, execution_options=raw)
    for collection in await session.scalars(newest):
        is_new = collection.created == collection.updated
        await (emit_created if is_new else emit_updated)(collection)


async def count_recorded(task_runs: Annotated[TaskRunFilter, Body(embed=True)]) -> int:
    """Record what is known of task runs; return how many there are of these."""
    if _record_now is not None:
        with suppress(Exception):  # it has logged what went wrong, and will be tried again
            await _record_now()
    async with provide_database_interface().session_context() as session:
        number: int = await count_task_runs(session, task_run_filter=task_runs)  # type: ignore[attr-defined] # as above
    return number


def _row(artifact: Artifact) -> dict[str, Any]:
    at = now("UTC")
    return {**artifact.model_dump_for_orm(exclude={"created", "updated"}), "created": at, "updated": at}


if __name__ == "__main__":
    serve(int(sys.argv[1]))
