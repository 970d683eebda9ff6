"""Hooks into an experiment, and the list that calls them.

Owns which hooks there are, with Ray Tune's names and arguments, and the order of the calls.
Callbacks run in the shell, before a row becomes an event; what one raises ends the experiment
and is never swallowed. `CallbackList` costs nothing for hooks that nobody overrides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tune_core.init_args import RecordsArguments
from tune_core.validation import Validator

if TYPE_CHECKING:
    from tune_core.storage.checkpoint import Checkpoint
    from tune_core.trial import Trial

_logger = logging.getLogger(__name__)


class Callback(RecordsArguments):
    """Is told what happens in an experiment. Override what is needed; every hook does nothing.

    Hooks are called in the process of the experiment, with arguments by name. `trials` and
    `trial` are for reading. What a hook raises ends the experiment.

    Example:
        >>> class Count(Callback):
        ...     rows = 0
        ...
        ...     def on_trial_result(self, iteration, trials, trial, result, **info):
        ...         self.rows += 1
        >>> count = Count()
        >>> count.on_trial_result(iteration=1, trials=[], trial=None, result={"loss": 0.5})
        >>> count.rows
        1

    Source: as Ray Tune 2.60. Differs: `on_trial_restore` is called.
    """

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Prepare, before anything else happens.

        Args:
            stop: The `Stopper` that ends trials or the experiment, if there is one.
            num_samples: `TuneConfig.num_samples`.
            total_num_samples: How many trials there will be, with the points of a grid; None if
                nobody knows.
            **info: What later versions tell in addition, here and below.
        """

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Run before each step of the experiment's loop.

        A step waits for what trials say, a quarter of a second at most, and handles all of it.

        Args:
            iteration: How many steps this process has made, here and in the other hooks.
            trials: All trials in creation order, here and in the other hooks.
            **info: See `setup`.
        """

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Run after each step of the experiment's loop, which is counted already."""

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when an attempt at a trial has started."""

    def on_trial_restore(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when an attempt at a trial has started from a checkpoint, after `on_trial_start`."""

    def on_trial_save(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when a trial has committed a checkpoint, before `on_checkpoint`."""

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Run with each report, before it is kept: what is added to `result` is kept too.

        `result["should_checkpoint"] = True` has a trainable class save its state as it was with this report; for that,
        the trial takes no step before every callback has seen it.
        """

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when a trial is over without an error."""

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when an attempt at a trial has failed and another one follows."""

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Run when a trial has failed for good."""

    def on_checkpoint(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """Run when a trial has committed this checkpoint."""

    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        """Run once, when every trial is over."""

    def get_state(self) -> dict[str, Any] | None:
        """Return what a resumed experiment needs to know, as a JSON object; None for nothing.

        Asked about once a second while trials report: it goes into the journal with what the hooks
        were told, if it has changed. Keep it small.
        """
        return None

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned when the journal ended; called before `setup`.

        No hook is called again for what happened before that. If a hook has raised, the report that
        it was called for may be told once more.
        """


#: Every hook, in the order in which a trial meets them.
HOOKS = (
    "setup",
    "on_step_begin",
    "on_trial_start",
    "on_trial_restore",
    "on_trial_result",
    "on_trial_save",
    "on_checkpoint",
    "on_trial_recover",
    "on_trial_error",
    "on_trial_complete",
    "on_step_end",
    "on_experiment_end",
)


class CallbackList:
    """Calls each hook of several callbacks, in their order.

    Only callbacks that override a hook are called. An exception of a callback comes out of the
    call with a note that names the callback; those after it are not called.

    Args:
        callbacks: Instances of `Callback`.

    Raises:
        ConfigError: One of them is no such instance.

    Example:
        >>> class Greet(Callback):
        ...     def setup(self, **info):
        ...         print("hello")
        >>> callbacks = CallbackList([Greet(), Callback()])
        >>> callbacks.setup(num_samples=2)
        hello
        >>> callbacks.listens("setup"), callbacks.listens("on_trial_result")
        (True, False)
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        validator = Validator("RunConfig")
        for number, callback in enumerate(callbacks):
            validator.check_instance(f"callbacks[{number}]", callback, Callback)
        validator.raise_any()
        self.callbacks = tuple(callbacks)
        #: What one of them has raised last.
        self.raised: Exception | None = None
        self._hooks: dict[str, tuple[Callable[..., None], ...]] = {
            name: tuple(getattr(callback, name) for callback in callbacks if _overrides(callback, name))
            for name in HOOKS
        }

    @property
    def keeps_state(self) -> bool:
        """Whether anybody overrides `get_state`."""
        return any(_overrides(callback, "get_state") for callback in self.callbacks)

    def listens(self, hook: str) -> bool:
        """Return whether anybody overrides this hook: if not, its arguments need not be made."""
        return bool(self._hooks[hook])

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Call the hook; the arguments are those of `Callback`, here and below."""
        self._call("setup", stop=stop, num_samples=num_samples, total_num_samples=total_num_samples, **info)

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Call the hook."""
        self._call("on_step_begin", iteration=iteration, trials=trials, **info)

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        """Call the hook."""
        self._call("on_step_end", iteration=iteration, trials=trials, **info)

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_start", iteration=iteration, trials=trials, trial=trial, **info)

    def on_trial_restore(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_restore", iteration=iteration, trials=trials, trial=trial, **info)

    def on_trial_save(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_save", iteration=iteration, trials=trials, trial=trial, **info)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Call the hook."""
        self._call("on_trial_result", iteration=iteration, trials=trials, trial=trial, result=result, **info)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_complete", iteration=iteration, trials=trials, trial=trial, **info)

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_recover", iteration=iteration, trials=trials, trial=trial, **info)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call the hook."""
        self._call("on_trial_error", iteration=iteration, trials=trials, trial=trial, **info)

    def on_checkpoint(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """Call the hook."""
        self._call(
            "on_checkpoint", iteration=iteration, trials=trials, trial=trial, checkpoint=checkpoint, **info
        )

    def on_experiment_end(self, trials: Sequence[Trial], **info: Any) -> None:
        """Call the hook."""
        self._call("on_experiment_end", trials=trials, **info)

    def get_state(self) -> dict[str, Any] | None:
        """Return the states of those that have one, by place and class; None if none has."""
        states = {key: callback.get_state() for key, callback in self._by_key().items()}
        return {key: state for key, state in states.items() if state is not None} or None

    def set_state(self, state: dict[str, Any]) -> None:
        """Give each callback its state back.

        A state whose callback is no longer at its place is left aside, and the log says so:
        nothing is ever given to a callback of another class.
        """
        callbacks = self._by_key()
        for key, part in state.items():
            if key in callbacks:
                callbacks[key].set_state(part)
            else:
                _logger.warning("the saved state of callback %s is not used: it is not there now", key)

    def _by_key(self) -> dict[str, Callback]:
        return {
            f"{number} {type(callback).__qualname__}": callback
            for number, callback in enumerate(self.callbacks)
        }

    def _call(self, name: str, **arguments: Any) -> None:
        for hook in self._hooks[name]:
            try:
                hook(**arguments)
            except Exception as error:
                owner = type(getattr(hook, "__self__", hook)).__qualname__
                error.add_note(f"raised by the callback {owner} in its {name}()")
                self.raised = error
                raise


def _overrides(callback: Callback, name: str) -> bool:
    """Return whether a callback has its own hook, in its class or on the object itself."""
    return name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name)
