"""The process of a Prefect server that is started here: Prefect's own, with what makes many short trials cheap.

Only that process imports this module: `python -m flows.server_process PORT`, started by `flows.server`.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.models.artifacts import emit_artifact_collection_created_event as emit_created
from prefect.server.models.artifacts import emit_artifact_collection_updated_event as emit_updated
from prefect.server.schemas.actions import ArtifactCreate
from prefect.server.schemas.core import Artifact
from prefect.server.services import task_run_recorder
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED,
    temporary_settings,
)
from prefect.types._datetime import now
from sqlalchemy import Result, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import ORMExecuteState, Session
from starlette.routing import Mount

from flows.server import BULK_ARTIFACTS

#: How long the state of a task run may wait for others to be written with, in seconds.
RECORD_EVERY_S = 0.2
#: How often the server looks for garbage: a request makes thousands of objects, and hardly any cycle.
_GC_THRESHOLDS = (20_000, 20, 50)


def serve(port: int) -> None:
    """Run the server in this process until the pipe on standard input is closed."""
    record_soon()
    lock_early()
    event.listen(Session, "do_orm_execute", insert_rows_apart)
    gc.freeze()  # what is imported stays: nothing need look for garbage in it
    gc.set_threshold(*_GC_THRESHOLDS)
    config = uvicorn.Config(
        create_app_with_bulk,
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


def record_soon() -> None:
    """Write states of task runs that come alone after `RECORD_EVERY_S`: Prefect cuts its setting to whole seconds."""
    stock = task_run_recorder.consumer

    def consumer(**options: Any) -> AbstractAsyncContextManager[Any]:
        return stock(**options | {"flush_every": RECORD_EVERY_S})

    task_run_recorder.consumer = consumer  # type: ignore[assignment] # it is called with keywords alone


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


def insert_rows_apart(state: ORMExecuteState) -> Result[Any] | None:
    """Have many rows inserted by a statement of one row that is executed for each of them.

    Prefect writes `INSERT … VALUES (…), (…), …`, which SQLAlchemy compiles anew for each number of rows. That, and
    to look up each of their columns in the ORM, takes as long as all else about an insertion.
    """
    statement: Any = state.statement
    if not state.is_insert or not statement._multi_values or statement._returning:
        return None
    one = statement._clone()
    one._multi_values = ()
    rows = [
        {column.key: value for column, value in row.items()}
        for rows in statement._multi_values
        for row in rows
    ]
    return state.session.execute(one, rows, execution_options={"dml_strategy": "raw"})


def create_app_with_bulk() -> FastAPI:
    """Return Prefect's application with one more route in its API, which creates many artifacts with one request.

    One by one they cost a server a third of what a short trial does.
    """
    app = create_app()
    (api,) = (route.app for route in app.routes if isinstance(route, Mount) and route.path == "/api")
    assert isinstance(api, FastAPI)
    api.post(BULK_ARTIFACTS, status_code=201)(create_artifacts)
    return app


async def create_artifacts(artifacts: list[ArtifactCreate]) -> list[UUID]:
    """Create artifacts that have keys, all or none, as Prefect does each of them; return their ids."""
    rows = [_row(Artifact(**artifact.model_dump())) for artifact in artifacts]
    latest = [{"latest_id" if name == "id" else name: row[name] for name in row} for row in rows]
    db, raw = provide_database_interface(), {"dml_strategy": "raw"}
    insert = db.queries.insert(db.ArtifactCollection)
    changed = {name: insert.excluded[name] for name in latest[0] if name not in ("key", "created")}
    upsert = insert.on_conflict_do_update(index_elements=["key"], set_=changed)
    newest = sa.select(db.ArtifactCollection).where(
        db.ArtifactCollection.key.in_([row["key"] for row in rows])
    )
    async with db.session_context(begin_transaction=True) as session:
        await session.execute(upsert, latest, execution_options=raw)
        await session.execute(db.queries.insert(db.Artifact), rows, execution_options=raw)
        for collection in await session.scalars(newest):
            is_new = collection.created == collection.updated
            await (emit_created if is_new else emit_updated)(collection)
    return [row["id"] for row in rows]


def _row(artifact: Artifact) -> dict[str, Any]:
    at = now("UTC")
    return {**artifact.model_dump_for_orm(exclude={"created", "updated"}), "created": at, "updated": at}


if __name__ == "__main__":
    serve(int(sys.argv[1]))
