"""The plan of a study: its runs in order, each with its settings once the results that it depends on are there."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.settings.schema import base, flatten
from rankclip_jax.studies.definition import Settings, Study, with_settings
from rankclip_jax.training.experiment import resolve

TUNING_SEED = 0

# Settings that do not change what is computed, or only where.
_IRRELEVANT = ("data.train", "data.validation", "data.threads", "data.workers", "checkpoint.", "logging.", "processes.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Args:
      name: such as ``clip/tune1`` or ``clip/seed3``; its folder's name.
      arm: its arm.
      settings: on top of the recipe's.
      seed: of initial weights and data order.
      is_trial: whether it serves to tune, and is not reported.
      teacher: the run whose weights teach it; None: none.
    """

    name: str
    arm: str
    settings: Settings
    seed: int
    is_trial: bool
    teacher: "Run | None" = None


def digest(run: Run, config: ConfigDict) -> str:
    """Returns a digest of what determines a run's result besides the data: its settings that are no defaults."""
    defaults = dict(flatten(resolve(base()).to_dict()))
    given = {
        name: value
        for name, value in flatten(resolve(with_settings(config, run.settings)).to_dict())
        if defaults.get(name) != value and not name.startswith(_IRRELEVANT) and not name.endswith(".path")
    }
    teacher = digest(run.teacher, config) if run.teacher else ""
    content = json.dumps([given, run.seed, run.is_trial, teacher], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Plan:
    """The runs of a study.

    Args:
      study: the definition.
      scores: the mean of ``choose_by`` of each finished run for tuning, by the run's name.
    """

    def __init__(self, study: Study, scores: Mapping[str, float]) -> None:
        self._study, self._scores = study, scores

    def runs(self) -> Iterator[Run | None]:
        """Yields all runs in order; None for each whose settings are not known yet."""
        study = self._study
        for arm in study.arms:
            yield from self.trials(arm)
            for seed in range(1, min(study.first_seeds, study.seeds_of(arm)) + 1):
                yield self.reported(arm, seed)
        for arm in study.arms:
            for seed in range(study.first_seeds + 1, study.seeds_of(arm) + 1):
                yield self.reported(arm, seed)

    def trials(self, arm: str) -> Iterator[Run | None]:
        """Yields the runs that tune an arm; None for each whose settings are not known yet."""
        definition = self._study.arms[arm]
        if definition.like:
            return
        trials: list[Run | None] = []
        best: Settings | None = {}
        for stage in (*self._study.shared, definition.tries):
            for tried in stage:
                name = f"tune{len(trials) + 1}"
                trials.append(None if best is None else self._run(arm, name, {**best, **tried}))
            best = self._best(trials)
        yield from trials

    def reported(self, arm: str, seed: int) -> Run | None:
        """Returns an arm's run with its chosen settings and a seed; None: they are not known yet."""
        settings = self.chosen(arm)
        return None if settings is None else self._run(arm, f"seed{seed}", settings, seed)

    def chosen(self, arm: str) -> Settings | None:
        """Returns an arm's settings, on top of the recipe's; None: not all of its trials are finished."""
        if not self._study.arms[arm].like:
            return self._best(list(self.trials(arm)))
        return self.chosen(self._study.arms[arm].like)

    def _run(self, arm: str, name: str, settings: Settings, seed: int = TUNING_SEED) -> Run | None:
        definition = self._study.arms[arm]
        teacher = self.reported(definition.teacher, 1) if definition.teacher else None
        if definition.teacher and teacher is None:
            return None
        # Tuned settings come last, except over those by which a variant differs from the arm that it is like.
        merged = {**settings, **definition.settings} if definition.like else {**definition.settings, **settings}
        return Run(f"{arm}/{name}", arm, merged, seed, seed == TUNING_SEED, teacher)

    def _best(self, trials: list[Run | None]) -> dict[str, Any] | None:
        """Returns the settings of the best trial, the first of equals; None: not all are finished."""
        known = [run for run in trials if run is not None and run.name in self._scores]
        if len(known) < len(trials):
            return None
        return dict(max(known, key=lambda run: self._scores[run.name]).settings)
