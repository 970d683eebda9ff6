"""HyperOpt's tree of Parzen estimators, at Ray Tune's import path; HyperOpt itself is imported when one is made."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

from tune_core.search.library_search import LibrarySearch
from tune_core.validation import Validator, is_number


class HyperOptSearch(LibrarySearch):
    """Chooses configurations by HyperOpt, for scripts that did so with Ray Tune.

    A trial that was stopped early counts with its last value: HyperOpt knows no other. `OptunaSearch` does.

    Args:
        space: A dict with samplers; None: the Tuner's `param_space`.
        metric: The metric to optimise; None: the experiment's.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, to try first.
        n_initial_points: How many are drawn at random before the model is used; at least 1.
        random_state_seed: Seed; None: from Python's (or numpy's) global random state.
        gamma: The share of trials that counts as good; above 0, below 1.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: HyperOpt is not installed; the message says how to.

    Source: as Ray Tune 2.60. Differs: HyperOpt's own expressions (`hp.uniform`) are not taken; a resume goes on
        exactly; a choice with samplers in it is refused.
    """

    def __init__(
        self,
        space: dict[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        n_initial_points: int = 20,
        random_state_seed: int | None = None,
        gamma: float = 0.25,
    ) -> None:
        _import_hyperopt()
        validator = Validator(type(self).__name__)
        validator.check_integer("n_initial_points", n_initial_points, minimum=1)
        if random_state_seed is not None:
            validator.check_integer("random_state_seed", random_state_seed, minimum=0, also=", or None")
        if not is_number(gamma) or not 0 < gamma < 1:
            validator.add("gamma", gamma, "expected a number above 0 and below 1")
        self._num_random, self._gamma = n_initial_points, gamma
        super().__init__(space, metric, mode, points_to_evaluate, random_state_seed, validator)

    def _begin(self, seed: int) -> None:
        hyperopt = _import_hyperopt()
        hp = hyperopt.hp
        space = {
            axis.name: hp.randint(axis.name, axis.size)
            if axis.size
            else hp.uniform(axis.name, axis.low, axis.high)
            for axis in self._axes
        }
        self._domain = hyperopt.Domain(lambda chosen: chosen, space)
        self._docs = hyperopt.Trials()

    def _propose(self, draws: random.Random) -> tuple[Any, dict[str, Any]]:
        hyperopt = _import_hyperopt()
        ids = self._docs.new_trial_ids(1)
        self._docs.refresh()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = hyperopt.tpe.suggest(
                ids,
                self._domain,
                self._docs,
                draws.getrandbits(31),
                n_startup_jobs=self._num_random,
                gamma=self._gamma,
                verbose=False,
            )
        chosen = found[0]["misc"]["vals"]
        params = {
            axis.name: int(chosen[axis.name][0]) if axis.size else float(chosen[axis.name][0])
            for axis in self._axes
        }
        return self._insert(ids[0], params), params

    def _given(self, params: dict[str, Any]) -> Any:
        (tid,) = self._docs.new_trial_ids(1)
        return self._insert(tid, params)

    def _insert(self, tid: int, params: Mapping[str, Any]) -> int:
        misc = {
            "tid": tid,
            "cmd": self._domain.cmd,
            "workdir": self._domain.workdir,
            "idxs": {name: [tid] for name in params},
            "vals": {name: [value] for name, value in params.items()},
        }
        docs = self._docs.new_trial_docs([tid], [None], [{"status": "new"}], [misc])
        self._docs.insert_trial_docs(docs)
        self._docs.refresh()
        return tid

    def _learn(self, token: Any, params: dict[str, Any], result: dict[str, Any], loss: float | None) -> None:
        base = _import_hyperopt().base
        for doc in self._docs._dynamic_trials:
            if doc["tid"] == token:
                doc["state"] = base.JOB_STATE_ERROR if loss is None else base.JOB_STATE_DONE
                doc["result"] = {"status": "fail"} if loss is None else {"loss": loss, "status": "ok"}
        self._docs.refresh()


def _import_hyperopt() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import hyperopt
    except ImportError as error:
        raise ImportError(
            "HyperOptSearch needs HyperOpt: run pip install 'prefect-tune[hyperopt]'"
        ) from error
    return hyperopt
