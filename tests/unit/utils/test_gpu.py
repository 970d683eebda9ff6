"""Waiting for a GPU: which one, through which library, and for how long."""

# ruff: noqa: N802, N815 - the names of pynvml

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import TuneError
from tune_core.utils import gpu as module

UUIDS = ["GPU-aaaa", "GPU-bbbb"]


@pytest.fixture(autouse=True)
def neither_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPUtil", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.fixture
def gputil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a GPUtil whose second GPU has these parts of its memory in use, look by look."""

    def install(used: Iterable[float] = (0.0,)) -> None:
        looks = list(used)

        def look() -> list[Any]:
            now = looks.pop(0) if len(looks) > 1 else looks[0]
            return [
                types.SimpleNamespace(id=number, uuid=UUIDS[number], memoryUtil=value)
                for number, value in enumerate([1.0, now])
            ]

        monkeypatch.setitem(sys.modules, "GPUtil", types.SimpleNamespace(getGPUs=look))

    return install


class NVMLError(Exception): ...


class FakeNvml:
    """The part of pynvml that is used; GPU 0 has only memory in use that the driver reserves."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 2

    def __init__(self, *, has_driver: bool = True, has_v2: bool = True) -> None:
        self.has_driver, self.has_v2, self.opened = has_driver, has_v2, 0

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise NVMLError("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return UUIDS[handle].encode() if handle else UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        if version and not self.has_v2:
            raise NVMLError("Function Not Found")
        return types.SimpleNamespace(used=(0 if version else 20) + 500 * handle, total=1000)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def install(**kwargs: bool) -> FakeNvml:
        fake = FakeNvml(**kwargs)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def own_gpus(monkeypatch: pytest.MonkeyPatch, *ids: int | str) -> None:
    monkeypatch.setattr(module, "load_runtime", lambda: types.SimpleNamespace(gpu_ids=lambda: list(ids)))


# How long.


def test_gpu_that_is_free_is_not_waited_for(gputil: Callable[..., None]) -> None:
    gputil([0.01])

    assert tune.utils.wait_for_gpu(1) is True


def test_gpu_is_looked_at_again_until_it_is_free(gputil: Callable[..., None], naps: list[float]) -> None:
    gputil([0.9, 0.9, 0.4, 0.0])

    assert tune.utils.wait_for_gpu(1, delay_s=7) is True
    assert naps == [7, 7, 7]


def test_gpu_is_free_at_a_utilisation_of_the_users_choice(gputil: Callable[..., None]) -> None:
    gputil([0.5])

    assert tune.utils.wait_for_gpu(1, target_util=0.5) is True


def test_gpu_that_stays_in_use_is_an_error_that_says_how_much(
    gputil: Callable[..., None], naps: list[float]
) -> None:
    gputil([0.25])

    with pytest.raises(RuntimeError, match=r"GPU memory was not freed: 0\.250 of GPU 1's .* 3 waits of 2 s"):
        tune.utils.wait_for_gpu(1, retry=3, delay_s=2)
    assert naps == [2, 2, 2]


# Which one.


@pytest.mark.parametrize("gpu_id", [1, "1", "GPU-bbbb"])
def test_gpu_is_named_by_index_or_uuid(gputil: Callable[..., None], gpu_id: int | str) -> None:
    gputil()

    assert tune.utils.wait_for_gpu(gpu_id) is True


def test_gpu_that_is_not_named_is_the_first_of_the_trials(
    gputil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gputil()
    own_gpus(monkeypatch, "1", "0")

    assert tune.utils.wait_for_gpu() is True


def test_trial_without_a_gpu_is_told_how_to_get_one(
    gputil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gputil()
    own_gpus(monkeypatch)

    with pytest.raises(RuntimeError, match=r"No GPU ids found: .*tune\.with_resources"):
        tune.utils.wait_for_gpu()


@pytest.mark.parametrize("gpu_id", [2, "2", "GPU-cccc", -1])
def test_gpu_that_is_not_there_is_an_error_that_names_those_that_are(
    gputil: Callable[..., None], gpu_id: int | str
) -> None:
    gputil()

    with pytest.raises(ValueError, match=r"is no GPU of this machine, which has \["):
        tune.utils.wait_for_gpu(gpu_id)


@pytest.mark.parametrize("gpu_id", [1.0, [1], b"1"])
def test_gpu_id_of_another_type_is_refused(gputil: Callable[..., None], gpu_id: Any) -> None:
    gputil()

    with pytest.raises(ValueError, match="must be type str/int"):
        tune.utils.wait_for_gpu(gpu_id)


def test_memory_limit_has_no_effect_and_says_so(gputil: Callable[..., None]) -> None:
    gputil()

    with pytest.warns(DeprecationWarning, match="gpu_memory_limit=…. has no effect"):
        assert tune.utils.wait_for_gpu(1, gpu_memory_limit=0.1) is True


# Through which library.


def test_without_a_library_the_error_names_the_extra() -> None:
    with pytest.raises(
        RuntimeError, match=r"pip install 'prefect-tune\[gpu\]' \(or a module GPUtil\)"
    ) as caught:
        tune.utils.wait_for_gpu(1)
    assert isinstance(caught.value, TuneError)


def test_memory_that_the_driver_reserves_is_not_in_use(nvml: Callable[..., FakeNvml]) -> None:
    fake = nvml()

    assert tune.utils.wait_for_gpu("GPU-aaaa") is True
    assert fake.opened == 0


@pytest.mark.parametrize("gpu_id", [1, "GPU-bbbb"])
def test_memory_is_read_through_nvml(
    nvml: Callable[..., FakeNvml], gpu_id: int | str, naps: list[float]
) -> None:
    nvml()

    with pytest.raises(RuntimeError, match=r"0\.500 of GPU"):
        tune.utils.wait_for_gpu(gpu_id, retry=1)


def test_old_driver_is_asked_in_the_old_way(nvml: Callable[..., FakeNvml], naps: list[float]) -> None:
    nvml(has_v2=False)

    with pytest.raises(RuntimeError, match=r"0\.020 of GPU 0"):
        tune.utils.wait_for_gpu(0, retry=1)


def test_machine_without_nvidias_driver_is_told_so(nvml: Callable[..., FakeNvml]) -> None:
    nvml(has_driver=False)

    with pytest.raises(RuntimeError, match=r"cannot be asked .*NVML Shared Library Not Found"):
        tune.utils.wait_for_gpu(0)


def test_gputil_goes_before_nvml(nvml: Callable[..., FakeNvml], gputil: Callable[..., None]) -> None:
    nvml(has_driver=False)
    gputil()

    assert tune.utils.wait_for_gpu(1) is True
