"""Acting after an import: once, when the module is whole, and before those who asked for it go on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from tune_core.engine.worker.import_hook import after_import


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes `made_up_module`, which can be imported then."""
    monkeypatch.syspath_prepend(tmp_path)
    before = sys.meta_path[:]

    def write_module(text: str) -> None:
        Path(tmp_path, "made_up_module.py").write_text(text)
        importlib.invalidate_caches()

    yield write_module
    sys.meta_path[:] = before
    sys.modules.pop("made_up_module", None)


def change(module: ModuleType) -> None:
    module.value += 1  # type: ignore[attr-defined]


def test_names_that_are_imported_from_a_module_are_those_that_the_action_left(
    write: Callable[[str], None],
) -> None:
    write("value = 1")
    after_import("made_up_module", change)

    from made_up_module import value  # type: ignore[import-not-found]

    assert value == 2


def test_a_module_that_is_there_already_is_changed_at_once(write: Callable[[str], None]) -> None:
    write("value = 1")
    import made_up_module

    after_import("made_up_module", change)

    assert made_up_module.value == 2
    importlib.reload(made_up_module)
    assert made_up_module.value == 1


def test_to_ask_whether_a_module_could_be_imported_is_no_import(write: Callable[[str], None]) -> None:
    write("value = 1")
    after_import("made_up_module", change)

    assert importlib.util.find_spec("made_up_module") is not None

    import made_up_module

    assert made_up_module.value == 2


def test_a_failed_import_is_explained_and_the_next_one_may_succeed(write: Callable[[str], None]) -> None:
    def explain(error: ImportError) -> NoReturn:
        raise ImportError(f"explained: {error}") from error

    write("import no_such_module_either")
    after_import("made_up_module", change, failed=explain)
    for _ in range(2):
        with pytest.raises(ImportError, match="explained: No module named 'no_such_module_either'"):
            importlib.import_module("made_up_module")

    write("value = 1  # of another size, so that no cached bytecode is taken")

    assert importlib.import_module("made_up_module").value == 2


def test_a_module_that_does_not_exist_is_not_found(write: Callable[[str], None]) -> None:
    after_import("made_up_module", change)

    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("made_up_module")
