"""Tools for authors of trainables, at Ray Tune's import path `tune.utils`."""

from __future__ import annotations

from tune_core.utils import util as util
from tune_core.utils.diagnosis import diagnose_serialization
from tune_core.utils.gpu import wait_for_gpu
from tune_core.utils.save_restore import validate_save_restore

__all__ = ["diagnose_serialization", "validate_save_restore", "wait_for_gpu"]
