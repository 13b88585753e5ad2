"""The objective on pairs that are not trained on, as at the end of training whatever the step."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.models.clip import Outputs, Variables
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.training.experiment import Experiment

Loss = Callable[[Outputs, jax.Array], tuple[jax.Array, Metrics]]


class ValidationLoss:
    """Compiled at the first call, kept for the next.

    Args:
      experiment: the run's parts.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def __call__(self, embedded: Embedded, variables: Variables) -> list[Metric]:
        """Means over batches of the training batch's size, or of all pairs where they are fewer: the size is told too.

        A loss depends on it: an untrained model's contrastive loss is the logarithm of the batch's size.
        """
        parameters, config = variables["params"], self._experiment.config
        size = min(config.train.global_batch_size, len(embedded.index))
        scalars = {"scale": jnp.exp(parameters["logit_scale"])}
        batches = []
        for start in range(0, len(embedded.index) - size + 1, size):
            rows = slice(start, start + size)
            pair = {"image": jnp.asarray(embedded.image[rows]), "text": jnp.asarray(embedded.first_text[rows])}
            outputs = self._experiment.outputs_with(Outputs(pair, scalars), parameters)
            divides = size % self._experiment.layout.mesh.size == 0
            loss, metrics = (self._on_all_devices if divides else self._on_one_device)(
                outputs, jax.random.key(config.seed)
            )
            batches.append({"loss": loss} | metrics)
        means = {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
        return [
            *(Metric(f"validation/{name}", value, "") for name, value in means.items()),
            Metric("validation/batch_size", size, "pairs"),
        ]

    @functools.cached_property
    def _on_all_devices(self) -> Loss:
        return jax.jit(
            lambda outputs, key: self._experiment.validation_loss(outputs, key, self._experiment.layout.mesh)
        )

    @functools.cached_property
    def _on_one_device(self) -> Loss:
        return jax.jit(lambda outputs, key: self._experiment.validation_loss(outputs, key, None))
