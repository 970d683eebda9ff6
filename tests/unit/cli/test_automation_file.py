"""Automations that a file describes are checked before any of them is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tune_core.cli import automation_file
from tune_core.cli.automation_file import install_file
from tune_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What would have been installed on a server."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def crash_detection(*, silent_for_s: float | None = None) -> UUID:
        calls.append(("crash_detection", {"silent_for_s": silent_for_s}))
        return UUID(int=len(calls))

    def stall_cancellation(silent_for_s: float, *, flow_run_tags: list[str] | None = None) -> UUID:
        calls.append(("stall_cancellation", {"silent_for_s": silent_for_s, "flow_run_tags": flow_run_tags}))
        return UUID(int=len(calls))

    kinds = {"crash_detection": crash_detection, "stall_cancellation": stall_cancellation}
    monkeypatch.setattr(automation_file, "_KINDS", kinds)
    return calls


def test_the_projects_own_file_is_installed_in_its_order(installed: list[tuple[str, dict[str, Any]]]) -> None:
    done = install_file(ROOT / "deployments" / "automations.yaml")

    assert done == [("crash_detection", UUID(int=1)), ("stall_cancellation", UUID(int=2))]
    assert installed == [
        ("crash_detection", {"silent_for_s": 90}),
        ("stall_cancellation", {"silent_for_s": 21600, "flow_run_tags": ["digits"]}),
    ]


def test_options_may_be_left_out(installed: list[tuple[str, dict[str, Any]]], tmp_path: Path) -> None:
    file = tmp_path / "automations.yaml"
    file.write_text("automations:\n  - crash_detection:\n")

    assert install_file(file) == [("crash_detection", UUID(int=1))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- crash_detection", ["expected `automations:` with a list"]),
        ("automations: 3", ["expected `automations:` with a list"]),
        (
            "automations: [crash_detecton: {}, stall_cancellation: {}, crash_detection: {silent: 3}]",
            [
                "automations[0]: 'crash_detecton' is none of",
                "automations[1].stall_cancellation: missing a required argument: 'silent_for_s'",
                "automations[2].crash_detection: got an unexpected keyword argument 'silent'",
            ],
        ),
        ("automations: [crash_detection: 3]", ["automations[0].crash_detection"]),
    ],
)
def test_a_file_that_is_wrong_installs_nothing(
    installed: list[tuple[str, dict[str, Any]]], tmp_path: Path, text: str, expected: list[str]
) -> None:
    file = tmp_path / "automations.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        install_file(file)

    for each in expected:
        assert each in str(caught.value)
    assert not installed


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        install_file(tmp_path / "nowhere.yaml")
