"""What a run is made of while it trains, as its hooks see it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.input_pipeline.unreadable import UnreadableTally
from rankclip_jax.monitoring.events import Events
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.training.batches import make_tally
from rankclip_jax.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Run:
    """One attempt at a run, from a step on.

    Args:
      experiment: its parts.
      workdir: its folder.
      source: the training data.
      evaluator: of the validation data and the tasks that the settings add.
      lock: of the folder.
      events: where what happens is recorded.
      timeline: what the run does, and for how long.
      tally: counts records that cannot be read.
      start_step: updates done before this attempt.
      recipe: the file that the settings are from; None: there is none.
    """

    experiment: Experiment
    workdir: Path
    source: Source
    evaluator: Evaluator
    lock: Lock
    events: Events
    timeline: Timeline
    tally: UnreadableTally
    start_step: int
    recipe: Path | None

    def at(self, start_step: int) -> "Run":
        """Another attempt, from another step on."""
        tally = make_tally(self.experiment.config, self.source)
        return dataclasses.replace(self, start_step=start_step, tally=tally)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
      step: updates done.
      finished: whether that is all of them.
      signal_number: the signal that stopped it, having saved; None: none did.
      results: the evaluation that this call made at the end, by name; None: it made none.
    """

    step: int
    finished: bool
    signal_number: int | None = None
    results: Mapping[str, float | None] | None = None
