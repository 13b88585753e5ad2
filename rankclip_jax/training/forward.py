"""The forward pass over a global batch: each device encodes its own rows, optionally in micro-batches.

Over the mesh axis ``fsdp`` there is one all-gather of the weights and one reduce-scatter of their gradients per step,
whatever the number of micro-batches. Accumulation is GradCache (Gao et al., 2021): the loss is computed once over the
embeddings of the whole batch, and the backward pass encodes each micro-batch again, with the same random draws, instead
of keeping its activations. Gradients are those of the whole batch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from rankclip_jax.distributed.collectives import all_gather
from rankclip_jax.distributed.mesh import FSDP
from rankclip_jax.models.clip import Outputs, digest
from rankclip_jax.models.lora import LORA
from rankclip_jax.objectives import head
from rankclip_jax.objectives.head import HEAD
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.state import join

Batch = dict[str, jax.Array]


def forward(
    experiment: Experiment, parameters: optax.Params, batch_statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Outputs, dict[str, Any]]:
    """Encodes all views of a batch; returns the objective's inputs and the updated batch statistics.

    Args:
      experiment: the experiment.
      parameters: sharded by the layout.
      batch_statistics: of ResNets; empty for other models.
      batch: views by name, ``[B, ...]``, with rows sharded over all devices.
      key: the step's PRNG key.
    """
    layout, objective = experiment.layout, experiment.objective
    single_device = layout.mesh.size == 1  # XLA would otherwise emit collectives of the device with itself
    axes = () if single_device else layout.mesh.axis_names
    execution = dataclasses.replace(experiment.model.execution, axes=axes)
    model = experiment.model.clone(execution=execution)
    modules = {name: parameters[name] for name in ("vision", "text", "logit_scale", HEAD, LORA) if name in parameters}
    frozen = {name: experiment.frozen[name] for name in modules}
    modules = jax.tree.map(lambda x, mask: jax.lax.stop_gradient(x) if mask.all() else x, modules, frozen)
    split = layout.specifications({"parameters": modules})["parameters"]

    def encode_own(modules: optax.Params, statistics: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        variables = join(_gathered(modules, split), statistics)
        local_rows = len(next(iter(batch.values())))
        row_indices = jnp.arange(local_rows) + (local_rows * jax.lax.axis_index(axes) if axes else 0)

        def encode(part: tuple[Batch, jax.Array]) -> tuple[Any, Any]:
            outputs, changed = model.apply(
                variables,
                part[0],
                train=True,
                rows=part[1],
                tokens=objective.needs_tokens,
                mutable=["batch_stats"],
                rngs={"patch_dropout": key},
            )
            outputs = head.apply(objective, model, variables, outputs, part[0])
            if objective.needs_captions:
                outputs = outputs._replace(captions=digest(part[0]["text"]))
            taught = {name: rows for name, rows in part[0].items() if name.startswith("teacher")}
            outputs = outputs._replace(embeddings=outputs.embeddings | taught)
            return outputs._replace(scalars={}), changed.get("batch_stats", statistics)

        count = experiment.config.train.accumulation
        if count == 1:
            return encode((batch, row_indices))
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), (batch, row_indices))
        outputs = jax.lax.map(jax.checkpoint(lambda part: encode(part)[0], prevent_cse=False), parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs), statistics

    replicated, rows = PartitionSpec(), PartitionSpec(axes)
    encode_all = (
        encode_own
        if single_device
        else jax.shard_map(
            encode_own,
            mesh=layout.mesh,
            in_specs=(split, replicated, rows, replicated),
            out_specs=(rows, replicated),
            check_vma=False,
        )
    )
    outputs, batch_statistics = encode_all(modules, batch_statistics, batch, jax.random.fold_in(key, 0))
    outputs = outputs._replace(scalars={"scale": jnp.exp(parameters["logit_scale"])})
    return experiment.with_scalars(outputs, parameters), batch_statistics


def _gathered(modules: optax.Params, split: Any) -> optax.Params:
    """Returns the full arrays by an all-gather of their shards over ``fsdp``; called inside ``shard_map``."""

    def full(shard: jax.Array, specification: PartitionSpec) -> jax.Array:
        return all_gather(shard, FSDP, specification.index(FSDP)) if FSDP in specification else shard

    return jax.tree.map(full, modules, split)
