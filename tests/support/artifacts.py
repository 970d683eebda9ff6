"""Reading artifacts."""

from __future__ import annotations

import json
from typing import Any

from prefect.client.schemas.objects import Artifact


def rows_in(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a table as any JSON parser reads them: Python's own lets NaN pass."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows: list[dict[str, Any]] = json.loads(str(artifact.data), parse_constant=refuse)
    return rows
