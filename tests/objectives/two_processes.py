"""Run by `test_two_processes`: one of two processes, each with four of the eight devices, evaluates every objective."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import base
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step
from rankclip_jax.objectives.teacher import views
from tests.objectives import numpy_reference as reference


def main(port: str, index: str, path: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index), initialization_timeout=60)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x, t = (reference.unit_rows(seed, 48, 16).astype(np.float32) for seed in (0, 1))
    local = slice(24 * int(index), 24 * int(index) + 24)
    taught = {name: reference.unit_rows(7, 48, 8).astype(np.float32) for name in views(0)}
    taught = {name: jax.make_array_from_process_local_data(rows, value[local]) for name, value in taught.items()}
    arguments = [jax.make_array_from_process_local_data(rows, value[local]) for value in (x, t)]
    results = {}
    for name in (*reference.OBJECTIVES, *reference.DISTILLATIONS):
        objective = OBJECTIVES[name].from_config(base.get_config().objective)

        def loss(x, t, taught, objective=objective):
            own = taught if objective.needs_teacher else {}
            outputs = Outputs({"image": x, "text": t, **own}, {"scale": 20.0, **objective.parameters()})
            return objective.loss(outputs, Step(0.5, jax.random.key(0), mesh, objective.state(48), jnp.arange(48))).loss

        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*arguments, taught)
        results[f"{name}/value"] = np.asarray(value)
        for kind, gradient in zip(("image", "text"), gradients, strict=True):
            results[f"{name}/{kind}"] = multihost_utils.process_allgather(gradient, tiled=True)
    if index == "0":
        np.savez(path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
