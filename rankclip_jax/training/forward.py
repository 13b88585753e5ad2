"""The encoders over a global batch: each device encodes its own rows, in micro-batches where asked to.

Between the devices of an axis ``fsdp`` the weights are gathered once for a step, and their gradients summed into the
shards that each device owns once, whatever the number of micro-batches. Accumulation is GradCache (Gao et al., 2021):
the loss is computed once over the embeddings of the whole batch, and each micro-batch is encoded a second time in the
backward pass, with the same random draws, instead of being kept. Gradients are those of the whole batch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from rankclip_jax.distributed.collectives import all_gather
from rankclip_jax.distributed.mesh import FSDP
from rankclip_jax.models.clip import Outputs
from rankclip_jax.models.lora import LORA
from rankclip_jax.objectives import head
from rankclip_jax.objectives.head import HEAD
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.state import join

Batch = dict[str, jax.Array]


def forward(
    experiment: Experiment, parameters: optax.Params, batch_statistics: dict[str, Any], batch: Batch, key: jax.Array
) -> tuple[Outputs, dict[str, Any]]:
    """All views of a batch to what the objective reads, and the batch statistics after them.

    Args:
      experiment: the run's parts.
      parameters: as the layout says.
      batch_statistics: of ResNets.
      batch: views by name, ``[B, ...]``, rows over all devices.
      key: of the step.
    """
    layout, objective = experiment.layout, experiment.objective
    alone = layout.mesh.size == 1  # which XLA would have exchange everything with itself
    axes = () if alone else layout.mesh.axis_names
    execution = dataclasses.replace(experiment.model.execution, axes=axes)
    model = experiment.model.clone(execution=execution)
    names = ["vision", "text", "logit_scale", *(name for name in (HEAD, LORA) if name in parameters)]
    modules = {name: parameters[name] for name in names}
    frozen = {name: experiment.frozen[name] for name in modules}
    modules = jax.tree.map(lambda x, mask: jax.lax.stop_gradient(x) if mask.all() else x, modules, frozen)
    split = layout.specifications({"parameters": modules})["parameters"]

    def encode_own(modules: optax.Params, statistics: dict[str, Any], batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        variables = join(_gathered(modules, split), statistics)
        own = len(next(iter(batch.values())))
        numbers = jnp.arange(own) + (own * jax.lax.axis_index(axes) if axes else 0)

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
            return outputs._replace(scalars={}), changed.get("batch_stats", statistics)

        count = experiment.config.train.accumulation
        if count == 1:
            return encode((batch, numbers))
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), (batch, numbers))
        outputs = jax.lax.map(jax.checkpoint(lambda part: encode(part)[0], prevent_cse=False), parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs), statistics

    whole, rows = PartitionSpec(), PartitionSpec(axes)
    encode_all = (
        encode_own
        if alone
        else jax.shard_map(
            encode_own,
            mesh=layout.mesh,
            in_specs=(split, whole, rows, whole),
            out_specs=(rows, whole),
            check_vma=False,
        )
    )
    outputs, batch_statistics = encode_all(modules, batch_statistics, batch, jax.random.fold_in(key, 0))
    outputs = outputs._replace(scalars={"scale": jnp.exp(parameters["logit_scale"])})
    return experiment.with_scalars(outputs, parameters), batch_statistics


def _gathered(modules: optax.Params, split: Any) -> optax.Params:
    """The whole of each array, from the parts that the devices of a group own; called on each device."""

    def whole(part: jax.Array, specification: PartitionSpec) -> jax.Array:
        return all_gather(part, FSDP, specification.index(FSDP)) if FSDP in specification else part

    return jax.tree.map(whole, modules, split)
