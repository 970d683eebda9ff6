"""What every searcher has to keep, as tests: subclass `SearcherContract`, and pytest runs them.

Owns no searcher. Needs neither pytest nor a cluster: each test is a method that asserts.
"""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from tune_core.search import Searcher, Suggestion, choice, fill_in, randint, uniform, unresolved_paths
from tune_core.search.sample import Categorical, Domain, Function, children, could_be, grid_values, is_among


class SearcherContract:
    """Tests of a searcher; subclass it under a name that begins with `Test`, and write `make`.

    Attributes:
        space: The search space that searchers are given.
        metric: The metric, or None for a searcher with an objective of its own.
        mode: "min" or "max", likewise.
        num_samples: How many configurations an experiment would want.
        resumes_exactly: Whether a searcher that was told of a journal goes on as the one that wrote it.
            It does if its suggestions follow from its arguments and from what it was told.

    Example:
        >>> from tune_core.search import BasicVariantGenerator
        >>> class TestRandomSearch(SearcherContract):
        ...     def make(self):
        ...         return BasicVariantGenerator(random_state=1)
        >>> TestRandomSearch().test_suggestions_lie_in_the_search_space()
    """

    space: dict[str, Any] = {  # noqa: RUF012 - a subclass gives another one
        "lr": uniform(0.0, 1.0),
        "net": {"width": randint(1, 100), "act": choice(["relu", "tanh"])},
        "epochs": 3,
    }
    metric: str | None = "loss"
    mode: str | None = "min"
    num_samples = 12
    resumes_exactly = True

    def make(self) -> Searcher:
        """Return a new searcher, always with the same arguments; with a seed, if it takes one."""
        raise AssertionError(f"{type(self).__name__}: write make(self), which returns a new searcher")

    # The tests.

    def test_make_returns_a_new_searcher_each_time(self) -> None:
        """Two experiments never share one."""
        first, second = self.make(), self.make()

        assert isinstance(first, Searcher)
        assert first is not second

    def test_suggestions_lie_in_the_search_space(self) -> None:
        """Every sampler gets a value that it could have drawn; what is fixed stays as it is."""
        for config in self._run(self._prepared()).values():
            faults = _outside(self.space, config)
            assert not faults, faults
            left = unresolved_paths(config)
            assert not left, f"{left} still hold samplers"

    def test_suggestions_share_no_container(self) -> None:
        """A trainable may change its configuration."""
        configs = list(self._run(self._prepared()).values())
        containers = [id(node) for config in [self.space, *configs] for node in _containers(config)]

        is_shared = len(containers) > len(set(containers))
        assert not is_shared, "two configurations, or one and the space, hold the same dict or list"

    def test_search_ends_or_goes_on_but_does_not_wait_for_nothing(self) -> None:
        """With no trial under way there is a suggestion or an end: None would hang the experiment."""
        searcher = self._prepared()

        for number in range(self.num_samples):
            answer = searcher.suggest(_name(number))
            assert answer is not None, f"suggestion {number} is None, though no trial runs"
            if answer == Searcher.FINISHED:
                break
            searcher.on_trial_complete(_name(number), self._result(number))

    def test_search_that_has_ended_stays_at_its_end(self) -> None:
        """Nobody is asked for more once it said that there is no more."""
        searcher = self._prepared()

        for number in range(self.num_samples + 1):
            answer = searcher.suggest(_name(number))
            if answer == Searcher.FINISHED:
                after = searcher.suggest(_name(number + 1))
                assert after == Searcher.FINISHED, f"FINISHED was followed by {after!r}"
                break
            searcher.on_trial_complete(_name(number), self._result(number))

    def test_same_arguments_and_results_give_the_same_suggestions(self) -> None:
        """A seed makes a search repeatable."""
        first, second = self._run(self._prepared()), self._run(self._prepared())
        assert first == second, f"suggested {first}, then {second}"

    def test_limit_of_trials_at_once_is_kept(self) -> None:
        """A searcher with `max_concurrent` says None, or leaves it to the experiment to count."""
        searcher = self._prepared()
        limit = searcher.max_concurrent
        answers = [searcher.suggest(_name(number)) for number in range(limit)]

        assert None not in answers, f"asked for {limit} at once, it answered {answers}"

    def test_results_need_not_come_in_order_nor_be_good(self) -> None:
        """NaN, infinity, a missing metric, a failure, no report at all: the search goes on."""
        searcher = self._prepared()
        results = [
            {self.metric or "loss": math.nan, "training_iteration": 1},
            {self.metric or "loss": math.inf, "training_iteration": 1},
            {"other": 1.0, "training_iteration": 1},
            None,
        ]
        names = []
        for number in range(len(results)):
            if not self._is_config(searcher.suggest(_name(number))):
                break
            names.append(_name(number))

        for name, result in reversed(list(zip(names, results, strict=False))):
            if result is not None:
                searcher.on_trial_result(name, dict(result))
            searcher.on_trial_complete(name, result, error=result is None)

        answer = searcher.suggest(_name(len(names)))
        assert answer is not None, "the search has stopped"

    def test_trials_that_are_stopped_early_are_learnt_from_or_not_and_the_search_goes_on(self) -> None:
        """A scheduler stops most trials, after one report or before any."""
        searcher = self._prepared()
        names = [name for name in map(_name, range(2)) if self._is_config(searcher.suggest(name))]

        for name, result in zip(names, (self._result(0), None), strict=False):
            searcher.on_trial_stopped_early(name, result)

        assert searcher.suggest(_name(len(names))) is not None, "the search has stopped"

    def test_results_are_only_read(self) -> None:
        """The same row goes to callbacks and into files."""
        searcher = self._prepared()
        searcher.suggest(_name(0))
        result = self._result(0)
        before = copy.deepcopy(result)

        searcher.on_trial_result(_name(0), result)
        searcher.on_trial_complete(_name(0), result)

        assert result == before, f"{before} became {result}"

    def test_trials_that_it_does_not_know_are_no_error(self) -> None:
        """Trials of an experiment that is resumed may be older than the searcher."""
        searcher = self._prepared()

        searcher.on_trial_result("somebody_else", self._result(0))
        searcher.on_trial_complete("somebody_else", self._result(0))
        searcher.on_trial_stopped_early("somebody_else", self._result(0))

        assert searcher.suggest(_name(0)) is not None, "the search has stopped"

    def test_searcher_that_is_told_of_a_journal_goes_on_like_the_one_that_wrote_it(self) -> None:
        """A resumed experiment suggests what it would have suggested."""
        first = self._prepared()
        known = self._run(first, self.num_samples // 2)

        again = self._prepared()
        for number, (name, config) in enumerate(known.items()):
            again.on_suggestion_replayed(name, json.loads(json.dumps(config)))
            again.on_trial_result(name, self._result(number))
            again.on_trial_complete(name, self._result(number))

        ours = self._next(again, len(known))
        if self.resumes_exactly:
            theirs = self._next(first, len(known))
            assert ours == theirs, f"the next suggestion is {ours}, but it would have been {theirs}"
        elif ours is not None:
            faults = _outside(self.space, ours)
            assert not faults, faults

    def test_added_configuration_takes_no_suggestion_away(self) -> None:
        """Somebody may add a trial while the search goes on: it is none of the searcher's own, also after a resume."""
        added = self._run(self._prepared(), 1)[_name(0)]
        wanted = self._run(self._prepared())

        searcher, found = self._prepared(), 0
        for number in range(self.num_samples):
            if number == 2:
                self._add(searcher, added)
            found += self._next(searcher, number) is not None
            searcher.on_trial_complete(_name(number), self._result(number))
        assert found == len(wanted), f"{found} suggestions instead of {len(wanted)}"

        first, again = self._prepared(), self._prepared()
        for number, (name, config) in enumerate(self._run(first, 3).items()):
            again.on_suggestion_replayed(name, json.loads(json.dumps(config)))
            again.on_trial_result(name, self._result(number))
            again.on_trial_complete(name, self._result(number))
        for each in (first, again):
            self._add(each, added)
        ours, theirs = self._next(again, 3), self._next(first, 3)
        if self.resumes_exactly:
            assert ours == theirs, f"resumed, it suggests {ours} instead of {theirs}"

    def test_search_goes_on_up_to_a_num_samples_that_is_raised(self) -> None:
        """If it counts its samples itself; else the experiment counts."""
        searcher = self._prepared()
        self._run(searcher)

        searcher.on_num_samples_raised(self.num_samples + 2)

        if searcher.counts_samples:
            assert self._next(searcher, self.num_samples) is not None, "the search has not gone on"

    def test_trial_that_was_replayed_and_never_ended_does_not_stop_the_search(self) -> None:
        """It goes on, and ends later."""
        config = next(iter(self._run(self._prepared(), 1).values()))
        searcher = self._prepared()

        searcher.on_suggestion_replayed(_name(0), config)
        searcher.on_trial_complete(_name(0), self._result(0))

        assert searcher.suggest(_name(1)) is not None, "the search has stopped"

    def test_state_is_json(self) -> None:
        """It is written down, and no pickle ever is."""
        searcher = self._prepared()
        self._run(searcher, 3)

        state = searcher.get_state()

        searcher.set_state(json.loads(json.dumps(state)))

    # Tools of the tests.

    def _prepared(self) -> Searcher:
        searcher = self.make()
        draws = searcher.set_search_properties(
            self.metric, self.mode, self.space, num_samples=self.num_samples
        )
        assert draws or not unresolved_paths(self.space), (
            "set_search_properties returned False: the searcher does not draw from `space`; give the test a space "
            "of fixed values"
        )
        return searcher

    def _run(self, searcher: Searcher, count: int | None = None) -> dict[str, dict[str, Any]]:
        """Run trials one after the other; return their configurations by trial id."""
        configs: dict[str, dict[str, Any]] = {}
        for number in range(self.num_samples if count is None else count):
            config = self._next(searcher, number)
            if config is None:
                break
            configs[_name(number)] = config
            searcher.on_trial_result(_name(number), self._result(number))
            searcher.on_trial_complete(_name(number), self._result(number))
        assert configs, "the searcher suggested nothing at all"
        return configs

    def _add(self, searcher: Searcher, config: dict[str, Any]) -> None:
        """Add a trial as a journal holds it, and let it end."""
        if searcher.on_configuration_added("added", json.loads(json.dumps(config))):
            searcher.on_trial_result("added", self._result(3))
            searcher.on_trial_complete("added", self._result(3))

    def _next(self, searcher: Searcher, number: int) -> dict[str, Any] | None:
        answer = searcher.suggest(_name(number))
        if not self._is_config(answer):
            return None
        return answer.config if isinstance(answer, Suggestion) else fill_in(self.space, answer)

    def _is_config(self, answer: object) -> bool:
        assert answer is None or answer == Searcher.FINISHED or isinstance(answer, dict | Suggestion)
        return isinstance(answer, dict | Suggestion)

    def _result(self, number: int) -> dict[str, Any]:
        return {self.metric or "loss": (number * 7) % 5 / 5, "training_iteration": 1, "config": {}}


def _name(number: int) -> str:
    return f"a1b2c_{number:05d}"


def _containers(node: Any) -> list[Any]:
    if not isinstance(node, dict | list):
        return []
    return [node, *(inner for _, child in children(node) for inner in _containers(child))]


def _outside(space: Any, config: Any, place: str = "config") -> list[str]:
    """What of a configuration the space would never make; it may have more keys than the space."""
    grid = grid_values(space)
    if isinstance(space, Function):
        return []
    if isinstance(space, Categorical) or grid is not None:
        categories = space.categories if isinstance(space, Categorical) else grid
        is_valid = any(could_be(config, category) for category in categories)
    elif isinstance(space, Domain):
        is_valid = space.is_valid(config)
    elif isinstance(space, dict) and isinstance(config, dict):
        missing = [f"{place} has no {key!r}" for key in space if key not in config]
        inner = [_outside(space[key], config[key], f"{place}[{key!r}]") for key in space if key in config]
        return missing + [fault for faults in inner for fault in faults]
    elif isinstance(space, list | tuple) and isinstance(config, list | tuple) and len(space) == len(config):
        inner = [
            _outside(*pair, f"{place}[{index}]") for index, pair in enumerate(zip(space, config, strict=True))
        ]
        return [fault for faults in inner for fault in faults]
    else:
        is_valid = is_among(config, [space])
    return [] if is_valid else [f"{place} is {config!r}, which is not of {space!r}"]
