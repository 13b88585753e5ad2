"""All evaluations of a model on a validation set, by task."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.ranking_quality import ranking_quality
from rankclip_jax.evaluation.tasks import agreement, retrieval_of, unreadable_images
from rankclip_jax.evaluation.validation_loss import ValidationLoss
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import GroundTruth, Source, ground_truth_of
from rankclip_jax.models.clip import Variables
from rankclip_jax.training.experiment import Experiment

RANKING_EXAMPLES = 512  # Kendall's tau is taken over lists of this many
_BATCH_SIZE = 1024


class Evaluated(NamedTuple):
    """What was measured, and the embeddings it comes from."""

    metrics: list[Metric]
    embedded: Embedded


class Evaluator:
    """Evaluates weights on a validation set; compiled at the first call, kept for the next.

    Args:
      experiment: the run's parts.
      source: the validation set.
      tasks: which of the tasks to run that the data hold the truth for; None: all.

    Raises:
      UserError: no task, one that does not exist, or one that these data have no truth for.
    """

    def __init__(self, experiment: Experiment, source: Source, tasks: Sequence[str] | None = None) -> None:
        self.source = source
        self.size = min(len(source), experiment.config.evaluation.max_examples)
        self.weights = experiment.config.evaluation.weights
        self._experiment = experiment
        self._validation_loss = ValidationLoss(experiment)
        self._embedder = Embedder(experiment.model, experiment.layout)
        self._truth: GroundTruth = ground_truth_of(source)
        available: dict[str, Callable[[Embedded, Variables], list[Metric]]] = {
            **({"validation": self._validation_loss} if experiment.knows_method else {}),
            "retrieval": lambda embedded, _: retrieval_of(embedded),
            "consistency": lambda embedded, _: agreement(embedded),
            **({"zero_shot": self._zero_shot} if self._truth.classes else {}),
            **({"ranking": self._ranking} if self._truth.relevance else {}),
        }
        if tasks is not None and not tasks:
            raise UserError(f"--tasks: empty; there are {', '.join(available)}.")
        if not experiment.knows_method and (tasks is None or "validation" in tasks):
            words = (
                f"the objective {experiment.config.objective.name!r} of the run is not here, which its validation loss "
                "needs. Name the recipe that adds it: --config RECIPE (a copy is in the run's folder)"
            )
            if tasks is not None:
                raise UserError(f"--tasks: {words}.")
            if is_primary_process():
                say(f"note: no validation loss: {words}")
        for task in tasks or []:
            if task not in available:
                raise UserError(f"--tasks: no task {task!r} for these data; there are {', '.join(available)}.")
        self._tasks = {name: measure for name, measure in available.items() if tasks is None or name in tasks}

    def __call__(self, variables: Variables, check_interrupt: Callable[[], None] = lambda: None) -> Evaluated:
        """Everything that is measured of these weights.

        Args:
          variables: the weights.
          check_interrupt: called before each batch, by all processes alike; may raise to break off.

        Raises:
          UserError: no image can be read, or an embedding is not finite.
        """
        config = self._experiment.config
        embedded = self._embedder.dataset(
            variables,
            self.source,
            self.size,
            batch_size=min(config.train.global_batch_size, _BATCH_SIZE),
            threads=config.data.threads,
            workers=config.data.workers,
            max_pixels=config.data.max_pixels,
            check_interrupt=check_interrupt,
        )
        metrics = [metric for measure in self._tasks.values() for metric in measure(embedded, variables)]
        if len(embedded.unreadable):
            metrics.append(unreadable_images(embedded))
        return Evaluated(metrics, embedded)

    def _zero_shot(self, embedded: Embedded, variables: Variables) -> list[Metric]:
        assert self._truth.classes
        prompts, labels = self._truth.classes.prompts, self._truth.classes.labels(embedded.records)
        classes = class_embeddings(lambda texts: self._embedder.texts(variables, texts), prompts)
        return accuracy(embedded.image, classes, labels, float(np.exp(variables["params"]["logit_scale"])))

    def _ranking(self, embedded: Embedded, variables: Variables) -> list[Metric]:
        del variables
        assert self._truth.relevance
        few = embedded.index[:RANKING_EXAMPLES]
        scores = embedded.image[: len(few)] @ embedded.first_text[: len(few)].T
        return ranking_quality(scores, np.asarray(self._truth.relevance(few.tolist())))
