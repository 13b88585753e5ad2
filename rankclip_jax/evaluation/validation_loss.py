"""The objective on pairs that are not trained on, as at the end of training whatever the step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.models.clip import Outputs, Variables
from rankclip_jax.objectives import Objective


class ValidationLoss:
    """Compiled at the first call, kept for the next.

    Args:
      objective: what a run is trained by.
      layout: its devices.
      config: its settings.
    """

    def __init__(self, objective: Objective, layout: Layout, config: ConfigDict) -> None:
        self._objective, self._layout, self._config = objective, layout, config
        self._loss = jax.jit(self._final_loss, static_argnums=2)

    def __call__(self, embedded: Embedded, variables: Variables) -> list[Metric]:
        """Means over batches of the training batch's size, or of all pairs where they are fewer.

        A loss depends on this size, which is among the metrics: an untrained model's contrastive loss is its logarithm.
        """
        parameters = variables["params"]
        size = min(self._config.train.global_batch_size, len(embedded.index))
        scalars = {"scale": jnp.exp(parameters["logit_scale"])}
        scalars |= {name: parameters[name] for name in self._objective.parameters()}
        mesh = self._layout.mesh if size % self._layout.mesh.size == 0 else None
        batches = []
        for start in range(0, len(embedded.index) - size + 1, size):
            rows = slice(start, start + size)
            pairs = {"image": jnp.asarray(embedded.image[rows]), "text": jnp.asarray(embedded.first_text[rows])}
            loss, metrics = self._loss(Outputs(pairs, scalars), jax.random.key(self._config.seed), mesh)
            batches.append({"loss": loss} | metrics)
        means = {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
        return [
            *(Metric(f"validation/{name}", value, "") for name, value in means.items()),
            Metric("validation/batch_size", size, "pairs"),
        ]

    def _final_loss(
        self, outputs: Outputs, key: jax.Array, mesh: Mesh | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        result = self._objective.final_loss(outputs, key, mesh)
        return result.loss, result.metrics
