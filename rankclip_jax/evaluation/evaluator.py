"""All evaluations of a model on a validation set, by task."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.ranking_quality import ranking_quality
from rankclip_jax.evaluation.tasks import agreement, retrieval_of, unreadable_images
from rankclip_jax.evaluation.validation_loss import ValidationLoss
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import GroundTruth, Source, ground_truth_of
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.objectives import Objective

RANKING_EXAMPLES = 512  # Kendall's tau is taken over lists of this many
_BATCH_SIZE = 1024


class Evaluated(NamedTuple):
    """What was measured, and the embeddings it comes from."""

    metrics: list[Metric]
    embedded: Embedded


class Evaluator:
    """Evaluates weights on a validation set; compiled at the first call, kept for the next.

    Args:
      model: the encoders.
      layout: the devices that share the rows.
      config: the run's settings.
      objective: whose loss is measured; None: it is not loaded, so that its loss is left out.
      source: the validation set.
      tasks: which of the tasks to run that the data hold the truth for; None: all.

    Raises:
      UserError: no task, one that does not exist, or one that these data have no truth for.
    """

    def __init__(
        self,
        model: Clip,
        layout: Layout,
        config: ConfigDict,
        objective: Objective | None,
        source: Source,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.source = source
        self.size = min(len(source), config.evaluation.max_examples)
        self.weights = config.evaluation.weights
        self._config = config
        self._embedder = Embedder(model, layout)
        self._truth: GroundTruth = ground_truth_of(source)
        available: dict[str, Callable[[Embedded, Variables], list[Metric]]] = {
            **({"validation": ValidationLoss(objective, layout, config)} if objective else {}),
            "retrieval": lambda embedded, _: retrieval_of(embedded),
            "consistency": lambda embedded, _: agreement(embedded),
            **({"zero_shot": self._zero_shot} if self._truth.classes else {}),
            **({"ranking": self._ranking} if self._truth.relevance else {}),
        }
        if tasks is not None and not tasks:
            raise UserError(f"--tasks: empty; choose from {', '.join(available)}.")
        if objective is None and (tasks is None or "validation" in tasks):
            words = (
                f"the validation loss needs the run's objective {config.objective.name!r}, which is not loaded. "
                "Name the recipe that adds it: --config RECIPE (a copy is in the run's folder)"
            )
            if tasks is not None:
                raise UserError(f"--tasks: {words}.")
            if is_primary_process():
                say(f"note: no validation loss: {words}")
        for task in tasks or []:
            if task not in available:
                raise UserError(f"--tasks: unknown task {task!r} for these data; choose from {', '.join(available)}.")
        self._tasks = {name: measure for name, measure in available.items() if tasks is None or name in tasks}

    def __call__(self, variables: Variables, check_interrupt: Callable[[], None] = lambda: None) -> Evaluated:
        """Everything that is measured of these weights.

        Args:
          variables: the weights.
          check_interrupt: called before each batch, by all processes alike; may raise to break off.

        Raises:
          UserError: no image can be read, or an embedding is not finite.
        """
        config = self._config
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
