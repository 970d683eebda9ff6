"""The pages of an experiment among its artifacts: charts while it runs, a summary when it has ended.

What they show is made in the writer's thread, from the overview, and costs some ten milliseconds of
it; while an experiment runs, at most every `CHARTS_EVERY_S`.
"""

from __future__ import annotations

from functools import partial

from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.views.overview import Overview
from tune_core.views.pages import charts_page, summary_page, trial_page

#: Least time between two versions of the charts, in seconds.
CHARTS_EVERY_S = 30.0
#: So many of the best trials get a page with their learning curve, if it has so many points.
TRIAL_PAGES, TRIAL_POINTS = 5, 3


class Pages:
    """Keeps the pages of one experiment up to date.

    Args:
        artifacts: Writes them.
        overview: What they show.
        name: The experiment's name.
        storage_url: Where its results are, without credentials.
    """

    def __init__(self, artifacts: ArtifactWriter, overview: Overview, name: str, storage_url: str) -> None:
        self._artifacts, self._overview = artifacts, overview
        self._name, self._storage_url = name, storage_url

    def changed(self) -> None:
        """Take note that there is something new to show."""
        description = f"Charts of experiment {self._name}"
        self._artifacts.show_page("charts", description, self._charts, every_s=CHARTS_EVERY_S)

    def finish(self) -> None:
        """Show the summary of an experiment that has ended, and the learning curves of its best trials."""
        description = f"Summary of experiment {self._name}"
        self._artifacts.show_page("summary", description, self._summary, has_key=True)
        snapshot = self._overview.snapshot()
        for trial in snapshot.ranked[:TRIAL_PAGES]:
            if max(len(part.trials[trial.number].curve) for part in snapshot.parts) >= TRIAL_POINTS:
                self._artifacts.show_page(
                    f"trial-{trial.trial_id}-chart",
                    f"Learning curve of {trial.name}",
                    partial(self._trial, trial.number),
                    trial_id=trial.trial_id,
                )

    def _charts(self) -> str:
        return charts_page(self._overview.snapshot())

    def _summary(self) -> str:
        return summary_page(self._overview.snapshot(), self._name, self._storage_url)

    def _trial(self, number: int) -> str:
        snapshot = self._overview.snapshot()
        return trial_page(snapshot.trials[number], snapshot) or ""
