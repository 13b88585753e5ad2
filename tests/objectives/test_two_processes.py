"""The losses over two processes that talk over the loopback address."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step
from rankclip_jax.objectives.teacher import views
from tests.objectives import numpy_reference as reference

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "results.npz"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.objectives.two_processes", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", [*reference.OBJECTIVES, *reference.DISTILLATIONS])
def test_two_processes_give_the_value_and_gradients_of_one_device(name, two_processes):
    x, t = (jnp.asarray(reference.unit_rows(seed, 48, 16), jnp.float32) for seed in (0, 1))

    def loss(x, t):
        objective = OBJECTIVES[name].from_config(base.get_config().objective)
        taught = {name: reference.unit_rows(7, 48, 8).astype(np.float32) for name in views(0)}
        own = taught if objective.needs_teacher else {}
        outputs = Outputs({"image": x, "text": t, **own}, {"scale": 20.0, **objective.parameters()})
        return objective.loss(outputs, Step(0.5, jax.random.key(0), None, objective.state(48), jnp.arange(48))).loss

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, t)
    assert two_processes[f"{name}/value"] == pytest.approx(float(value), rel=1e-6)
    for kind, expected in zip(("image", "text"), gradients, strict=True):
        np.testing.assert_allclose(
            two_processes[f"{name}/{kind}"], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )
