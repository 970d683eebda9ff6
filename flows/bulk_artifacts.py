"""What a server that is started here can do besides Prefect's own API: create many artifacts with one request.

One by one they cost a server a third of what a short trial does. Only the server's process imports this.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import FastAPI
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.models.artifacts import emit_artifact_collection_created_event as emit_created
from prefect.server.models.artifacts import emit_artifact_collection_updated_event as emit_updated
from prefect.server.schemas.actions import ArtifactCreate
from prefect.server.schemas.core import Artifact
from prefect.types._datetime import now
from starlette.routing import Mount

from flows.server import BULK_ARTIFACTS


def create_app_with_bulk() -> FastAPI:
    """Return Prefect's application with one more route in its API."""
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
