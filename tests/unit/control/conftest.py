"""Where the experiments of these tests are, and how often their journal is written."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def every_event_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a journal can be cut after any event."""
    monkeypatch.setattr("tune_core.control.journal.FLUSH_EVENTS", 1)
    monkeypatch.setattr("tune_core.control.journal.FLUSH_INTERVAL_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experiment"
