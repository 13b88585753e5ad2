"""The validation loss: the objective on held-out pairs, with all schedules at their final values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class ValidationLoss(Evaluation):
    """Computes the run's objective and its metrics on the data, as means over batches of the training batch size.

    A contrastive loss depends on the batch size (for an untrained model it is the size's logarithm), so the size is
    among the metrics.
    """

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the mean loss and metrics; with fewer pairs than a training batch, over one batch of all pairs.

        Raises:
          UserError: the model is not from a run, or the run's objective is not loaded.
        """
        if model.objective is None:
            raise UserError(
                "validation: expected a run with a loaded objective; found only weights. Use this task in "
                "config.evaluation.tasks of a run."
            )
        embedded, parameters = model.embed(data.source), model.variables["params"]
        size = min(model.training_batch_size, len(embedded.index))
        scalars = {"scale": jnp.exp(parameters["logit_scale"])}
        scalars |= {name: parameters[name] for name in model.objective.parameters()}
        mesh = model.embedder.layout.mesh if size % model.embedder.layout.mesh.size == 0 else None
        batches = []
        for start in range(0, len(embedded.index) - size + 1, size):
            rows = slice(start, start + size)
            pairs = {"image": jnp.asarray(embedded.image[rows]), "text": jnp.asarray(embedded.first_text[rows])}
            batches.append(_final_loss(model.objective, Outputs(pairs, scalars), jax.random.key(model.seed), mesh))
        means = {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
        return [
            Metric("validation/loss", means.pop("loss"), "", higher_is_better=False),
            *(Metric(f"validation/{name}", value, "", None) for name, value in means.items()),
            Metric("validation/batch_size", size, "pairs", None),
        ]


@functools.partial(jax.jit, static_argnums=(0, 3))
def _final_loss(objective: Objective, outputs: Outputs, key: jax.Array, mesh: Mesh | None) -> dict[str, jax.Array]:
    result = objective.final_loss(outputs, key, mesh)
    return {"loss": result.loss} | result.metrics
