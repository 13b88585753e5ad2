"""The validation loss: the objective on held-out pairs, with all schedules at their final values."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.loader import evaluation_batches
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.models.clip import Clip, Outputs, Variables, digest
from rankclip_jax.objectives import Metrics, Objective, head


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
        embedded = model.embed(data.source)
        size = min(model.training_batch_size, len(embedded.index))
        has_head = model.objective.head(model.embedder.model.preset.embedding_size) is not None
        if model.objective.needs_tokens or model.objective.needs_captions or has_head:
            batches = list(_losses_of_records(model, data.source, len(embedded.records), size))
        else:
            batches = list(_losses_of_embeddings(model, embedded, size))
        means = {name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]}
        return [
            Metric("validation/loss", means.pop("loss"), "", higher_is_better=False),
            *(Metric(f"validation/{name}", value, "", None) for name, value in means.items()),
            Metric("validation/batch_size", size, "pairs", None),
        ]


def _losses_of_embeddings(model: ModelUnderTest, embedded: Embedded, size: int) -> Iterator[Metrics]:
    """The loss and its metrics of each whole batch, from embeddings that are there already."""
    assert model.objective is not None
    for start in range(0, len(embedded.index) - size + 1, size):
        rows = slice(start, start + size)
        pairs = {"image": jnp.asarray(embedded.image[rows]), "text": jnp.asarray(embedded.first_text[rows])}
        yield _final_loss(
            model.objective, Outputs(pairs, _scalars(model)), jax.random.key(model.seed), _mesh(model, size)
        )


def _losses_of_records(model: ModelUnderTest, source: Source, count: int, size: int) -> Iterator[Metrics]:
    """The same for an objective that needs more than embeddings: each record is encoded again, on every process."""
    assert model.objective is not None
    clip = model.embedder.model
    images: list[np.ndarray] = []
    texts: list[str] = []
    for batch in evaluation_batches(
        source,
        image_size=clip.preset.vision.image_size,
        batch_size=size,
        size=count,
        threads=model.threads,
        workers=model.workers,
        max_pixels=model.max_pixels,
    ):
        usable = batch["readable"] & (batch["index"] >= 0)
        images += list(batch["image"][usable])
        texts += [captions[0] for captions, kept in zip(batch["captions"], usable, strict=True) if kept]
        if len(images) >= size:
            tokens = model.embedder.tokenize(texts[:size])
            mesh = _mesh(model, size)
            put = jnp.asarray if mesh is None else model.embedder.layout.put_same_rows
            rows = {"image": put(np.stack(images[:size])), "text": put(tokens)}
            key = jax.random.key(model.seed)
            yield _final_loss_of_records(model.objective, clip, model.variables, rows, _scalars(model), key, mesh)
            del images[:size], texts[:size]


def _scalars(model: ModelUnderTest) -> dict[str, jax.Array]:
    assert model.objective is not None
    parameters = model.variables["params"]
    own = {name: parameters[name] for name in model.objective.parameters()}
    return {"scale": jnp.exp(parameters["logit_scale"])} | own


def _mesh(model: ModelUnderTest, size: int) -> Mesh | None:
    """The devices that share a batch; None: it cannot be split evenly over them."""
    mesh = model.embedder.layout.mesh
    return mesh if size % mesh.size == 0 else None


@functools.partial(jax.jit, static_argnums=(0, 3))
def _final_loss(objective: Objective, outputs: Outputs, key: jax.Array, mesh: Mesh | None) -> Metrics:
    result = objective.final_loss(outputs, key, mesh)
    return {"loss": result.loss} | result.metrics


@functools.partial(jax.jit, static_argnums=(0, 1, 6))
def _final_loss_of_records(
    objective: Objective,
    clip: Clip,
    variables: Variables,
    batch: dict[str, jax.Array],
    scalars: dict[str, jax.Array],
    key: jax.Array,
    mesh: Mesh | None,
) -> Metrics:
    outputs: Any = clip.apply(variables, batch, tokens=objective.needs_tokens)
    outputs = head.apply(objective, clip, variables, outputs, batch)
    if objective.needs_captions:
        outputs = outputs._replace(captions=digest(batch["text"]))
    return _final_loss(objective, outputs._replace(scalars=scalars), key, mesh)
