"""Each script, run with this library, does what Ray Tune did when it was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tune_core
from tests.differential.case import Script, all_scripts
from tests.differential.compare import judge
from tests.differential.record import read_recorded, run
from tests.differential.reviewed import EVERYWHERE


@pytest.mark.parametrize("script", all_scripts().values(), ids=all_scripts())
def test_outcome_is_ray_tunes_but_for_what_is_declared(script: Script, engine: None, tmp_path: Path) -> None:
    recorded = read_recorded(script)
    assert recorded is not None, f"run: python -m tests.differential.record {script.name}"

    ours = run(script, tune_core, tmp_path)

    undeclared, shown = judge(recorded["outcome"], ours, {**EVERYWHERE, **script.differs})
    listed = "\n".join(
        f"{path}\n    Ray Tune: {json.dumps(peer)[:300]}\n    here:     {json.dumps(mine)[:300]}"
        for path, peer, mine in undeclared
    )
    assert not undeclared, f"{len(undeclared)} differences that nobody declared:\n{listed}"
    assert not set(script.differs.values()) - shown, "declared, but no difference any more"
