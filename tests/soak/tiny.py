"""A training of seconds as a command of its own, which notes which records each of its steps has seen.

python -m tests.soak.tiny train --config tests/soak/recipe.py --workdir DIR

It is the product's command, with a preset added that compiles in seconds. ``SOAK_RECORDS`` names the file of the notes;
``SOAK_NAN`` a step and where a NaN comes into it, as ``13 gradient``; with ``SOAK_CLOCK`` somebody sets the clock.
"""

import os
import random
import runpy
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.models.clip import Outputs
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.training import batches, loop
from rankclip_jax.training import step as steps
from tests.training.conftest import TINY


def main() -> None:
    PRESETS["tiny"] = TINY
    noted, real = Path(os.environ["SOAK_RECORDS"]), batches.training_batches

    def training_batches(*arguments, start_step, **settings):
        with noted.open("a") as file:
            for step, batch in enumerate(real(*arguments, start_step=start_step, **settings), start_step + 1):
                print(step, *batch["sample"], file=file, flush=True)
                yield batch

    batches.training_batches = training_batches
    if spoiled := os.environ.get("SOAK_NAN"):
        step, where = spoiled.split()
        spoil(int(step), where)
    if "SOAK_CLOCK" in os.environ:
        set_the_clock()
    command = sys.argv.pop(1)
    runpy.run_module(f"rankclip_jax.{command}", run_name="__main__")


def spoil(bad: int, where: str) -> None:
    """One NaN: in what the model makes of a step's batch, in a gradient of that step, or in a parameter before it."""
    forward, compile_step = steps.forward, loop.compile_step

    @jax.custom_vjp
    def with_gradient(x, factor):
        return x

    with_gradient.defvjp(lambda x, factor: (x, factor), lambda factor, g: (g.at[0, 0].mul(factor), None))

    def spoiled_outputs(experiment, parameters, statistics, batch, key):
        outputs, statistics = forward(experiment, parameters, statistics, batch, key)
        factor = jnp.where((batch["image"] == 255).all(), jnp.nan, 1.0)
        image = outputs.embeddings["image"]
        image = image.at[0, 0].mul(factor) if where == "batch" else with_gradient(image, factor)
        return Outputs(outputs.embeddings | {"image": image}, outputs.scalars), statistics

    def compile_spoiled(experiment, announce):
        step = compile_step(experiment, announce)

        @jax.jit
        def with_parameter(parameters):
            return parameters | {"logit_scale": parameters["logit_scale"] * jnp.nan}

        def spoiled(state, batch):
            with jax.transfer_guard("allow"):
                if int(state.step) + 1 == bad:
                    state = state.replace(parameters=with_parameter(state.parameters))
            return step(state, batch)

        return spoiled

    if where == "parameter":
        loop.compile_step = compile_spoiled
    else:
        steps.forward = spoiled_outputs
        noted = batches.training_batches

        def training_batches(*arguments, start_step, **settings):
            for step, batch in enumerate(noted(*arguments, start_step=start_step, **settings), start_step + 1):
                yield batch | {"image": np.full_like(batch["image"], 255)} if step == bad else batch

        batches.training_batches = training_batches


def set_the_clock() -> None:
    """Every second call or so of the clock finds it set an hour or a day back or forth."""
    real, draw, offset = time.time, random.Random(), [0.0]

    def jumping():
        if draw.random() < 0.5:
            offset[0] = draw.choice((-86400.0, -3600.0, 0.0, 3600.0, 86400.0))
        return real() + offset[0]

    time.time = jumping


if __name__ == "__main__":
    main()
