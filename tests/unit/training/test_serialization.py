"""How trainables travel: by name, else with their code; what cannot travel is named."""

from __future__ import annotations

import functools
import importlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from tests.support.object_refs import ObjectRef
from tune_core.errors import TrainableError
from tune_core.training.serialization import PickledTrainable, dumps_apart, loads_apart, pickle_trainable

ROOT = Path(__file__).resolve().parents[3]

a_lock = threading.Lock()


def run_python(code: str, directory: Path) -> str:
    """Run code in a new process that can import tune_core, and nothing else of ours."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, *([code] if code.endswith(".py") else ["-c", code])],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


LOAD = """
import pickle
with open("trainable.pickle", "rb") as file:
    pickled = pickle.load(file)
print(pickled.load()({"x": 5}))
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The directory of a process that has none of the user's files."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return directory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Writes modules of a user's project and imports one of them."""
    root = tmp_path / "project"

    def write_and_import(name: str, sources: dict[str, str]) -> Any:
        for file, source in sources.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(source)
            for part in [file, *map(str, Path(file).parents)]:
                module = part.removesuffix(".py").replace("/", ".")
                # So that it is removed at the end of the test, when the setting is undone.
                monkeypatch.setitem(sys.modules, module, None)
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.syspath_prepend(root)
        return importlib.import_module(name)

    return write_and_import


# What travels.


def test_importable_function_travels_by_name() -> None:
    pickled = pickle_trainable(json.dumps)

    assert pickled.load() is json.dumps
    assert pickled.by_value is None
    assert b"json" in pickled.by_reference


def test_function_of_an_installed_package_travels_by_name() -> None:
    assert pickle_trainable(pytest.approx).by_value is None


def test_local_function_travels_with_its_variables() -> None:
    factor = 3
    trainable = pickle.loads(pickle.dumps(pickle_trainable(lambda config: config["x"] * factor))).load()

    assert trainable({"x": 5}) == 15


@pytest.mark.parametrize("init", [{"user_code/__init__.py": ""}, {}], ids=["package", "namespace"])
def test_module_of_the_user_travels_to_a_process_that_cannot_import_it(
    init: dict[str, str], project: Callable[..., Any], elsewhere: Path
) -> None:
    module = project(
        "user_code.train",
        {
            **init,
            "user_code/train.py": "import beside\nfrom user_code.model import scale\n\n"
            "def train(config):\n    return scale(config['x']) + beside.OFFSET\n",
            "user_code/model.py": "def scale(x):\n    return 10 * x\n",
            "beside.py": "OFFSET = 2\n",
        },
    )

    pickled = pickle_trainable(module.train)
    (elsewhere / "trainable.pickle").write_bytes(pickle.dumps(pickled))

    assert run_python(LOAD, elsewhere) == "52\n"
    assert pickled.load() is module.train, "where it can be imported, it is"


@pytest.mark.parametrize("kind", ["partial", "object", "method"])
def test_what_wraps_a_users_function_travels_too(
    kind: str, project: Callable[..., Any], elsewhere: Path
) -> None:
    module = project(
        "wrapped_code",
        {
            "wrapped_code.py": "class Model:\n    def __call__(self, config):\n        return self.train(config)\n\n"
            "    def train(self, config):\n        return train(config, 2)\n\n"
            "def train(config, factor):\n    return config['x'] * factor\n"
        },
    )
    trainables = {
        "partial": functools.partial(module.train, factor=2),
        "object": module.Model(),
        "method": module.Model().train,
    }

    (elsewhere / "trainable.pickle").write_bytes(pickle.dumps(pickle_trainable(trainables[kind])))

    assert run_python(LOAD, elsewhere) == "10\n"


def test_script_takes_the_modules_beside_it_along(tmp_path: Path, elsewhere: Path) -> None:
    script = tmp_path / "script"
    script.mkdir()
    (script / "model.py").write_text("def scale(x):\n    return 10 * x\n")
    (script / "main.py").write_text(
        "import pickle, sys\nfrom model import scale\nfrom tune_core.training.serialization import pickle_trainable\n"
        "def train(config):\n    return scale(config['x'])\n"
        "with open('trainable.pickle', 'wb') as file:\n    pickle.dump(pickle_trainable(train), file)\n"
    )

    run_python(str(script / "main.py"), elsewhere)

    assert run_python(LOAD, elsewhere) == "50\n"


def test_users_modules_are_registered_only_while_they_are_pickled(project: Callable[..., Any]) -> None:
    module = project("registered_code", {"registered_code.py": "def train(config):\n    return 1\n"})
    cloudpickle.register_pickle_by_value(module)
    before = cloudpickle.list_registry_pickle_by_value()

    try:
        pickle_trainable(module.train)
        assert cloudpickle.list_registry_pickle_by_value() == before
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    pickle_trainable(module.train)
    assert "registered_code" not in cloudpickle.list_registry_pickle_by_value()


def test_module_with_state_that_cannot_travel_goes_by_name(project: Callable[..., Any]) -> None:
    module = project(
        "stateful_train",
        {
            "stateful.py": "import threading\nlock = threading.Lock()\n",
            "stateful_train.py": "import stateful\n\ndef train(config):\n    with stateful.lock:\n"
            "        return 1\n",
        },
    )

    pickled = pickle_trainable(module.train)

    assert pickled.by_value is None
    assert pickled.load() is module.train


# What does not.


class WithLock:
    def __init__(self) -> None:
        self.lock, self.size = threading.Lock(), 3

    def __call__(self, config: dict[str, Any]) -> None: ...

    def train(self, config: dict[str, Any]) -> None: ...


def in_closure() -> Callable[..., Any]:
    connection, fine = threading.Lock(), 3

    def train(config: dict[str, Any]) -> Any:
        return connection, fine

    return train


def takes_more(config: dict[str, Any], data: Any, *, more: Any = None) -> None: ...


def of_globals() -> Callable[..., Any]:
    """A function as a script has it: one whose globals travel with it."""
    names = {"a_lock": a_lock, "__name__": "__main__"}
    exec("def train(config):\n    return a_lock", names)
    train: Callable[..., Any] = names["train"]  # type: ignore[assignment]
    return train


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (in_closure, r"closure variable 'connection' \(lock\)"),
        (of_globals, r"global variable 'a_lock' \(lock\)"),
        (WithLock, r"attribute 'lock' \(lock\)"),
        (lambda: WithLock().train, r"attribute 'lock' \(lock\)"),
        (lambda: functools.partial(takes_more, data=a_lock), r"argument 'data' \(lock\)"),
        (lambda: functools.partial(takes_more, a_lock), r"argument '0' \(lock\)"),
        (
            lambda: functools.partial(functools.partial(in_closure()), x=1),
            r"closure variable 'connection' \(lock\)",
        ),
        (
            lambda: functools.partial(takes_more, data=a_lock, more=a_lock),
            r"argument 'data' \(lock\), argument 'more' \(lock\)",
        ),
    ],
)
def test_what_stands_in_the_way_is_named(make: Callable[[], Callable[..., Any]], culprit: str) -> None:
    with pytest.raises(
        TrainableError,
        match=rf"cannot be pickled because of {culprit}: .*Create such objects inside the trainable",
    ):
        pickle_trainable(make())


class HidesItsState:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, config: dict[str, Any]) -> None: ...

    def __reduce__(self) -> Any:
        raise TypeError("not today")


def test_culprit_that_cannot_be_found_is_said_to_be_somewhere() -> None:
    with pytest.raises(TrainableError, match="because of an object that it refers to: not today"):
        pickle_trainable(HidesItsState())


def by_name(name: str, module: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n."


@pytest.mark.parametrize("by_value", [None, by_name("train", "no_such_module_either")])
def test_module_that_is_missing_on_a_node_is_named(by_value: bytes | None) -> None:
    pickled = PickledTrainable(by_name("train", "no_such_module"), by_value)

    with pytest.raises(
        TrainableError,
        match=r"cannot be loaded in this process: No module named 'no_such_module.*Install what it imports on every",
    ):
        pickled.load()


def test_function_that_is_missing_in_its_module_is_named() -> None:
    with pytest.raises(TrainableError, match="no_such_function"):
        PickledTrainable(by_name("no_such_function", "json"), None).load()


# Ray's references.


def test_references_of_ray_travel_beside_the_bytes() -> None:
    first, second, references = ObjectRef(), ObjectRef(), list[Any]()

    data = dumps_apart({"a": first, "deep": [second, (first,)]}, references)

    assert references == [first, second, first]
    loaded = loads_apart(data, references)
    assert loaded["a"] is loaded["deep"][1][0] is first
    assert loaded["deep"][0] is second


def test_trainable_takes_its_references_along() -> None:
    reference = ObjectRef()
    pickled = pickle_trainable(lambda config: reference)

    assert {*pickled.references} == {reference}
    assert pickled.load()({}) is reference


def test_module_of_the_user_that_holds_references_travels_with_them(project: Callable[..., Any]) -> None:
    module = project("user_train", {"user_train.py": "data = None\n\ndef train(config):\n    return data\n"})
    module.data = ObjectRef()

    pickled = pickle_trainable(module.train)

    assert pickled.by_value is not None
    assert loads_apart(pickled.by_value, pickled.references)({}) is module.data
