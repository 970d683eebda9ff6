"""Compare searchers and schedulers with the peers, and write docs/search-quality.md.

    python -m benchmarks.search [--seeds 30] [--processes 2] [--group NAME …] [--docs docs]

Results are kept in build/search-quality.jsonl: what is there is not run again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.search import contenders, page, tables
from benchmarks.search.results import Task, run_all


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument(
        "--group", action="append", choices=list(contenders.GROUPS), help="only these; default: all"
    )
    parser.add_argument("--kept", type=Path, default=Path("build/search-quality.jsonl"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument(
        "--kept-only", action="store_true", help="run nothing: write the page from what is kept"
    )
    given = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # there is a process for each core
    tasks = [
        Task(group, table, contender, workers, seed)
        for group in given.group or contenders.GROUPS
        for seed in range(given.seeds)
        for table in tables.GROUPS[group]
        for workers in ((4, 16) if group == "multi-fidelity" else (4,))
        for contender in contenders.GROUPS[group]
        if seed < contenders.SEEDS.get(contender, given.seeds)
    ]
    results = run_all(tasks, given.kept, 0 if given.kept_only else given.processes)
    spent = sum(line["seconds"] for line in results)
    page.write(results, given.docs, recommended=contenders.RECOMMENDED, seconds=spent)
    print(f"{given.docs / 'search-quality.md'}: {len(results)} runs, {spent:.0f} s of computing")


if __name__ == "__main__":
    main()
