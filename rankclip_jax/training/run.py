"""The objects of a run during training, as its hooks access them."""

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
    """One attempt at a run, starting from a step.

    Args:
      experiment: the experiment.
      workdir: the run's folder.
      source: the training data.
      evaluator: evaluates on the validation data and the tasks that the settings add.
      lock: the lock of the folder.
      events: the event log.
      timeline: the spans of time that the run spends on each activity.
      tally: counts unreadable records.
      start_step: updates done before this attempt.
      recipe: the file that defines the settings; None: no file.
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
        """Returns another attempt, starting from another step."""
        tally = make_tally(self.experiment.config, self.source)
        return dataclasses.replace(self, start_step=start_step, tally=tally)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Args:
      step: updates done.
      finished: whether all steps are done.
      signal_number: the signal that stopped the run after a save; None: it was not stopped.
      results: the final evaluation that this call made, by name; None: it made none.
    """

    step: int
    finished: bool
    signal_number: int | None = None
    results: Mapping[str, float | None] | None = None
