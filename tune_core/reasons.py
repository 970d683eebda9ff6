"""Why a trial was stopped, paused or exchanged, in words.

Owns the one function that turns what a decision was based on into text; everything that people see uses it.
Never raises: what a scheduler of the user's own says in addition is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

#: How a sentence begins, by what was decided.
_BEGINNINGS: Final = {"STOP": "Stopped early", "PAUSE": "Paused", "EXPLOIT": "Exchanged"}
#: What has words of its own; everything else is shown after them, by its name.
_KNOWN: Final = frozenset(
    (
        "decision",
        "rule",
        "stopper",
        "metric",
        "mode",
        "rung",
        "bracket",
        "rank",
        "of",
        "front",
        "value",
        "cutoff",
        "donor",
    )
)


def reason_text(reason: Mapping[str, Any]) -> str:
    """Return what a decision was based on as one line for people; "" if nothing is known.

    Args:
        reason: What `TrialScheduler.decision_reason` returned, with `decision`, and `metric` and `mode` of the
            scheduler; or a `rule` that was met, or the name of a `stopper`.

    Example:
        >>> reason_text(
        ...     {
        ...         "decision": "STOP",
        ...         "metric": "accuracy",
        ...         "mode": "max",
        ...         "rung": 4,
        ...         "rank": 7,
        ...         "of": 9,
        ...         "cutoff": 0.83,
        ...         "value": 0.79,
        ...     }
        ... )
        'Stopped early: rung 4, rank 7 of 9, needed accuracy >= 0.83, had 0.79'
        >>> reason_text({"decision": "STOP", "rule": "training_iteration >= 10"})
        'Stopped: training_iteration >= 10'
        >>> reason_text({})
        ''
    """
    if not reason:
        return ""
    decision = str(reason.get("decision", "STOP"))
    if reason.get("stopper"):
        return f"Stopped by {reason['stopper']}"
    if reason.get("rule"):
        return f"{'Stopped' if decision == 'STOP' else _BEGINNINGS.get(decision, decision)}: {reason['rule']}"
    parts = ", ".join([*_position(reason), *_comparison(reason), *_rest(reason)])
    beginning = _BEGINNINGS.get(decision, decision)
    return f"{beginning}: {parts}" if parts else ""


def _position(reason: Mapping[str, Any]) -> Iterable[str]:
    """Where the trial was: when, among whom."""
    if reason.get("donor") is not None:
        yield f"it goes on from trial {reason['donor']}"
    if reason.get("bracket") is not None:
        yield f"bracket {_shown(reason['bracket'])}"
    if reason.get("rung") is not None:
        yield f"rung {_shown(reason['rung'])}"
    if reason.get("rank") is not None:
        among = f" of {_shown(reason['of'])}" if reason.get("of") is not None else ""
        yield f"rank {_shown(reason['rank'])}{among}"
    elif reason.get("of") is not None:
        yield f"compared with {_shown(reason['of'])}"
    if reason.get("front") is not None:
        yield f"front {_shown(reason['front'])}"


def _comparison(reason: Mapping[str, Any]) -> Iterable[str]:
    """What it took, and what the trial had."""
    metric, mode, value, cutoff = (reason.get(name) for name in ("metric", "mode", "value", "cutoff"))
    if isinstance(value, (list, tuple)):
        names = metric if isinstance(metric, (list, tuple)) else [""] * len(value)
        had = ", ".join(f"{name} {_shown(each)}".strip() for name, each in zip(names, value, strict=False))
        yield f"had {had}"
        return
    if cutoff is not None:
        sign = {"max": " >=", "min": " <="}.get(str(mode), "")
        yield f"needed {metric or 'a value'}{sign} {_shown(cutoff)}"
    if value is not None:
        name = f"{metric} " if cutoff is None and metric else ""
        yield f"had {name}{_shown(value)}"


def _rest(reason: Mapping[str, Any]) -> Iterable[str]:
    for name, value in reason.items():
        if name not in _KNOWN and value is not None:
            yield f"{name} {_shown(value)}"


def _shown(value: object) -> str:
    """A number in six digits, anything else as it is, in one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())
