"""Who is better, and whether chance would explain it: paired by seed, Wilcoxon's signed ranks, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def p_values(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, float]:
    """Return how likely each difference would be by chance, corrected after Holm for their number.

    Args:
        pairs: By whom ours is compared with: our regrets by seed, and theirs in the same order.

    Source: F. Wilcoxon, 1945; S. Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> round(p_values({"worse": ([1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12])})["worse"], 3)
        0.031
    """
    from scipy.stats import wilcoxon

    raw = {}
    for name, (ours, theirs) in pairs.items():
        is_same = all(a == b for a, b in zip(ours, theirs, strict=True))
        raw[name] = 1.0 if is_same else float(wilcoxon(ours, theirs).pvalue)
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(raw, key=raw.__getitem__)):
        highest = max(highest, min(1.0, raw[name] * (len(raw) - place)))
        corrected[name] = highest
    return corrected


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile.

    Example:
        >>> quartiles([1, 2, 3, 4, 5])
        (2.0, 3.0, 4.0)
    """
    import numpy as np

    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)
