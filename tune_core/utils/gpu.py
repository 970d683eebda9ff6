"""Waiting until the memory of a GPU is free: what ran on it before may take a while to go.

Reads NVML through `nvidia-ml-py`, or a module `GPUtil` if one can be imported. Which GPUs a
trial has, the runtime says.
"""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tune_core.errors import ConfigError, GpuError
from tune_core.runtime import load_runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Gpu:
    """One GPU of this machine; named as GPUtil names its attributes.

    Attributes:
        id: Its index on the machine, whatever CUDA_VISIBLE_DEVICES says.
        uuid: `GPU-…`.
        memoryUtil: The part of its memory that is in use, 0 to 1.
    """

    id: int
    uuid: str
    memoryUtil: float  # noqa: N815 - GPUtil's name


def wait_for_gpu(
    gpu_id: int | str | None = None,
    target_util: float = 0.01,
    retry: int = 20,
    delay_s: float = 5,
    gpu_memory_limit: float | None = None,
) -> bool:
    """Wait until at most a part of a GPU's memory is in use; return True.

    Args:
        gpu_id: Index on the machine, as a number or as digits, or UUID (`"GPU-…"`). None: the
            first of the GPUs that this trial has.
        target_util: The part of its memory that may be in use, 0 to 1.
        retry: How often to wait and look again.
        delay_s: How long to wait each time, in seconds.
        gpu_memory_limit: Has no effect any more.

    Raises:
        GpuError: A RuntimeError: neither NVML nor GPUtil is there, no GPU is known, or the
            memory was not freed in time.
        ConfigError: A ValueError: `gpu_id` is of another type, or no GPU of this machine.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     tune.utils.wait_for_gpu()
        >>> tuner = tune.Tuner(tune.with_resources(train, {"gpu": 1}))

    Source: as Ray Tune 2.60. Differs: NVML does as well as GPUtil, which is unmaintained.
    """
    if gpu_memory_limit is not None:
        warnings.warn(
            "wait_for_gpu(gpu_memory_limit=…) has no effect: use target_util",
            DeprecationWarning,
            stacklevel=2,
        )
    gputil = _gputil()
    if gputil is None:
        _nvml()  # raises before anything else is looked at
    wanted, attribute = _parse(_own_gpu() if gpu_id is None else gpu_id)
    used = _find(gputil, wanted, attribute).memoryUtil
    for _ in range(int(retry)):
        if used <= target_util:
            return True
        logger.info("GPU %s: %.3f of its memory is in use, waiting for %s", wanted, used, target_util)
        time.sleep(delay_s)
        used = _find(gputil, wanted, attribute).memoryUtil
    if used <= target_util:
        return True
    raise GpuError(
        f"GPU memory was not freed: {used:.3f} of GPU {wanted}'s is in use after {retry} waits of {delay_s:g} s, and "
        f"at most target_util={target_util} was expected. Something else runs on it, or wait longer (retry=…)"
    )


def _find(gputil: ModuleType | None, wanted: int | str, attribute: str) -> Any:
    found = {getattr(gpu, attribute): gpu for gpu in _gpus(gputil)}
    if wanted not in found:
        raise ConfigError(
            f"gpu_id={wanted!r} is no GPU of this machine, which has {sorted(found)}: give an index such as 0 "
            "or '0', or a UUID such as 'GPU-04546190-b68d-65ac-101b-035f8faed77d'"
        )
    return found[wanted]


def _own_gpu() -> int | str:
    found = load_runtime().gpu_ids()
    if not found:
        raise GpuError(
            "No GPU ids found: this process was given no GPU. Ask for one with "
            "tune.with_resources(trainable, {'gpu': 1}), or name one: wait_for_gpu(gpu_id=0)"
        )
    return found[0]


def _parse(gpu_id: Any) -> tuple[int | str, str]:
    """Return what to look for, and in which attribute of a GPU."""
    if isinstance(gpu_id, str):
        return (int(gpu_id), "id") if gpu_id.isdigit() else (gpu_id, "uuid")
    if isinstance(gpu_id, int):
        return gpu_id, "id"
    raise ConfigError(
        f"gpu_id={gpu_id!r} ({type(gpu_id).__name__}) must be type str/int: an index, or a UUID 'GPU-…'"
    )


def _gputil() -> ModuleType | None:
    try:
        return importlib.import_module("GPUtil")
    except ImportError:  # also of what it imports: its last release needs distutils, gone since Python 3.12
        return None


def _nvml() -> ModuleType:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise GpuError(
            "wait_for_gpu needs NVML: pip install 'prefect-tune[gpu]' (or a module GPUtil) where the trials run"
        ) from None


def _gpus(gputil: ModuleType | None) -> list[Any]:
    if gputil is not None:
        return list(gputil.getGPUs())
    nvml = _nvml()
    try:
        nvml.nvmlInit()
        try:
            return [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise GpuError(
            f"NVML cannot be asked for the GPUs of this machine ({error}): is there one, with NVIDIA's driver?"
        ) from error


def _gpu(nvml: ModuleType, index: int) -> _Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        # The first version counts what the driver keeps for itself as used: above 1 % on some cards, for ever.
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except (nvml.NVMLError, AttributeError, TypeError):  # an old driver, or old bindings
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    name = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return _Gpu(index, name, memory.used / memory.total if memory.total else 0.0)
