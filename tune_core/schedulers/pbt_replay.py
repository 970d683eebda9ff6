"""Replays the schedule of hyperparameters that population based training has found, in one trial.

Owns how a policy file is read, and when its changes happen. Never decides by what a trial reports but by how far it is.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_core.errors import ConfigError, StorageError
from tune_core.metrics import comparable
from tune_core.schedulers.scheduler import Exploit, TrialScheduler
from tune_core.search import BasicVariantGenerator
from tune_core.search.variants import grid_size
from tune_core.states import Decision
from tune_core.storage.filesystems import resolve
from tune_core.storage.objects import ObjectStore
from tune_core.trial import Status, Trial
from tune_core.validation import shorten

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """What a policy file says.

    Attributes:
        initial: The first configuration; None if it never changed, and so is not known.
        changes: From which iteration on another configuration holds, and which.
    """

    initial: dict[str, Any] | None
    changes: tuple[tuple[int, dict[str, Any]], ...]


class PopulationBasedTrainingReplay(TrialScheduler):
    """Trains one trial by the schedule that a trial of `PopulationBasedTraining` ended up with.

    The trial begins with the first configuration of the schedule. At each recorded iteration it saves, or goes on
    until it has reported with a checkpoint, and goes on from there with the next configuration. The training must
    save checkpoints, best in each iteration.

    Args:
        policy_file: `pbt_policy_<trial id>.txt` of the experiment's directory, Ray Tune's or ours: a path or a URL.

    Raises:
        ConfigError: The file cannot be read, or is no policy file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "pbt_policy_a1b2c_00001.txt")
        >>> _ = path.write_text('["1", "0", 4, 5, {"lr": 0.1}, {"lr": 0.08}]')
        >>> replay = PopulationBasedTrainingReplay(str(path))
        >>> replay.fill_in(0, {})
        {'lr': 0.1}
        >>> trial = Trial("t0", 0, {"lr": 0.1})
        >>> rows = [{"training_iteration": n, "checkpoint_dir_name": f"checkpoint_{n}"} for n in (4, 5)]
        >>> [str(replay.on_trial_result([], trial, row)) for row in rows]
        ['CONTINUE', 'PAUSE']

    Source: as Ray Tune 2.60. Differs: URLs; a search space of several trials is refused at once; of several changes
        that are due, the last one holds.
    """

    needs_checkpoints = True

    def __init__(self, policy_file: str | os.PathLike[str]) -> None:
        given: object = policy_file
        if not isinstance(given, (str, os.PathLike)) or not str(given):
            raise ConfigError(
                f"PopulationBasedTrainingReplay(policy_file={policy_file!r}): expected the path or URL of a policy file"
            )
        self._name = str(policy_file)
        self._schedule = read_schedule(self._name)
        self._num_made = 0
        self._due: dict[str, Any] | None = None
        self._trial_id: str | None = None

    def check_searcher(self, searcher: Any) -> None:
        """Refuse searchers that choose: the schedule says what is tried."""
        if searcher is not None and not isinstance(searcher, BasicVariantGenerator):
            raise ConfigError(
                f"search_alg={shorten(searcher)}: PopulationBasedTrainingReplay trains one trial by the schedule of "
                "its policy file; expected None"
            )

    def check_space(self, param_space: Mapping[str, Any], num_samples: int) -> None:
        """Refuse more than one trial, and a schedule and a search space without any configuration."""
        if num_samples != 1 or grid_size(dict(param_space)) > 1:
            raise ConfigError(
                f"PopulationBasedTrainingReplay trains one trial, and num_samples={num_samples} with this param_space "
                "makes several of one schedule: expected num_samples=1 and no grids"
            )
        if self._schedule.initial is None and not param_space:
            raise ConfigError(
                f"policy_file={self._name!r} has no changes, and param_space no configuration: give the first one as "
                "param_space, or use no replay"
            )

    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        """Return the first configuration of the schedule, in place of the search space's."""
        if self._schedule.initial is None:
            return config
        if config and config != self._schedule.initial:
            _logger.warning(
                "the trial begins with the configuration of %s, and not with that of param_space", self._name
            )
        return dict(self._schedule.initial)

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take note of the trial.

        Raises:
            ConfigError: It is another one than before.
        """
        if self._trial_id not in (None, trial.trial_id):
            raise ConfigError("PopulationBasedTrainingReplay trains one trial: a second one cannot be added")
        self._trial_id = trial.trial_id

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return PAUSE where the configuration is to change, else CONTINUE."""
        step, changes = comparable(result.get("training_iteration")), self._schedule.changes
        if step is None or trial.decision is not Decision.CONTINUE:
            return self.CONTINUE
        while self._num_made < len(changes) and changes[self._num_made][0] <= step:
            self._due = changes[self._num_made][1]
            self._num_made += 1
        return self.PAUSE if self._due is not None and self.can_pause(trial, result) else self.CONTINUE

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Say so if a change that was due could not be made."""
        if self._due is not None:
            _logger.warning(
                "trial %s was to go on with another configuration, and has never saved a checkpoint to go on from: "
                "report with checkpoint=…, and begin at tune.get_checkpoint()",
                trial.trial_id,
            )

    def exploit_paused(self, trials: Sequence[Trial]) -> Mapping[str, Exploit]:
        """Return how the trial goes on from its own checkpoint."""
        trial = next((trial for trial in trials if trial.status is Status.PAUSED), None)
        if self._due is None or trial is None or trial.start_point is None:
            return {}
        config, self._due = self._due, None
        return {trial.trial_id: Exploit(trial, dict(config))}

    def debug_string(self) -> str:
        """Return how many of the changes were made."""
        number = len(self._schedule.changes)
        return (
            f"PopulationBasedTraining replay: {self._num_made} of {number} changes of {Path(self._name).name}"
        )


def read_schedule(policy_file: str) -> Schedule:
    """Return the schedule that a policy file holds.

    Its last line is the last change. Each line says what a trial went on from; lines that do not lead to the last
    one were overwritten, and do not count.

    Args:
        policy_file: A path or URL.

    Raises:
        ConfigError: It cannot be read, or is no policy file.
    """
    changes: list[tuple[int, dict[str, Any]]] = []
    initial: dict[str, Any] | None = None
    tag = None
    for old_tag, new_tag, step, before, after in reversed(_lines(policy_file)):
        if tag is not None and old_tag != tag:
            break
        tag, initial = new_tag, before
        changes.append((step, after))
    return Schedule(initial, tuple(reversed(changes)))


def _lines(policy_file: str) -> list[tuple[str, str, int, dict[str, Any], dict[str, Any]]]:
    filesystem, path, url = resolve(policy_file)
    parent, _, name = path.rpartition("/")
    try:
        text = ObjectStore(filesystem, parent, url.rpartition("/")[0], fencing=False).read(name).decode()
    except (FileNotFoundError, StorageError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy_file={policy_file!r} cannot be read: {error!r}") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            target, donor, _, step, before, after = json.loads(line)
            if not (isinstance(step, (int, float)) and isinstance(before, dict) and isinstance(after, dict)):
                raise ValueError("other types")
        except (ValueError, TypeError):
            raise ConfigError(
                f"policy_file={policy_file!r}, line {number}: expected a list of two tags, two iterations and two "
                f"configurations, as PopulationBasedTraining writes it, got {shorten(line)}"
            ) from None
        lines.append((str(target), str(donor), int(step), before, after))
    return lines
