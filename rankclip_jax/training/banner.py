"""The summary that a run prints at its start: folder, devices, model, data, and notes on likely mistakes."""

import math

import jax
import numpy as np
from clu import parameter_overview

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.distributed.sharding import table
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.training import input_sizes
from rankclip_jax.training.run import Run
from rankclip_jax.training.state import TrainState


def print_banner(run: Run, state: TrainState) -> None:
    """Prints the summary on the primary process.

    Args:
      run: the run.
      state: the initial or restored state.
    """
    if not is_primary_process():
        return
    experiment, validation = run.experiment, run.evaluator.source
    config, mesh, pairs = experiment.config, experiment.layout.mesh, len(run.source)
    count = sum(math.prod(np.shape(value)) for value in jax.tree.leaves(state.parameters))
    batch = config.train.global_batch_size
    lines = {
        "run": f"{run.workdir}" + (f", resuming from step {run.start_step}" if run.start_step else ""),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)",
        "mesh": ", ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype} compute",
        **input_sizes.summary(experiment.model.preset),
        "objective": config.objective.name,
        "data": f"{pairs:,} training pairs, {len(validation) if validation else 0:,} validation pairs",
        "batch": f"{batch:,} pairs per step, {batch // mesh.size:,} per device",
        "steps": f"{experiment.total_steps:,} ({experiment.total_steps * batch / pairs:,.2f} epochs)",
    }
    say("\n".join(f"{name + ':':<11}{line}" for name, line in lines.items()))
    if experiment.layout.shards > 1:
        say(f"parameters, sharded over the axis fsdp:\n{table({'parameters': state.parameters}, experiment.layout)}")
    else:
        say(parameter_overview.get_parameter_overview(state.parameters, include_stats=False))
    tokenizer = TOKENIZERS[experiment.model.tokenizer]()
    for note in input_sizes.notes(config.model.name, experiment.model.preset, run.source, tokenizer):
        say(note)
    if pairs < batch:
        say(f"note: {pairs} pairs are fewer than a batch of {batch}, so pairs repeat within a batch")
