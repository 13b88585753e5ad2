"""The command that evaluates weights on a suite: resolves weights, suite and output folder, and prints the results."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from rankclip_jax import recipes
from rankclip_jax.cli.console import say
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation import results, suite, suite_run
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.evaluation.evaluation import ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.suite_run import Identity
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading, open_clip


def evaluate(
    path: Path,
    suite_file: Path,
    data: Path,
    output: Path | None,
    *,
    step: int | None = None,
    tasks: Sequence[str] | None = None,
    weights: str = "latest",
    dtype: str = "float32",
) -> bool:
    """Evaluates a model on the datasets of a suite and prints a table; returns whether all tasks succeeded.

    Args:
      path: a workdir, or another path that `rankclip_jax.load` reads.
      suite_file: see `suite`.
      data: the folder of the datasets.
      output: the folder of the results; None: ``evaluation/<step>`` of a workdir, else ``evaluations/<name>``.
      step: the step of a workdir's checkpoint; None: the newest.
      tasks: names of the tasks to run; None: all.
      weights: ``"latest"`` or ``"ema"`` of a workdir.
      dtype: compute dtype, ``"float32"`` or ``"bfloat16"``.

    Raises:
      UserError: the model or the suite does not exist.
    """
    suite_file = suite.find(suite_file)
    all_tasks, averages = suite.read_whole(suite_file)
    chosen = _choose(all_tasks, tasks, suite_file)
    step, digest = loading.identify(path, step)
    loaded = loading.read(path, step=step, weights=weights)
    is_run = (path / "checkpoints").is_dir()
    execution = dataclasses.replace(loaded.model.execution, dtype=jnp.dtype(dtype))
    layout = Layout(make_mesh(recipes.base().mesh))
    variables = jax.device_put(loaded.variables, layout.replicated)
    model = ModelUnderTest(Embedder(loaded.model.clone(execution=execution), layout), variables)
    where = f"{path}, step {step}" if is_run else str(path)
    output = output or (path / "evaluation" / str(step) if is_run else Path("evaluations") / path.stem)
    identity = Identity(
        open_clip.name_of(loaded.name, loaded.model, loaded.variables), where, f"{digest} {weights} {dtype}"
    )
    precision = jax.default_matmul_precision("highest") if dtype == "float32" else contextlib.nullcontext()
    with precision:
        done, faults = suite_run.run(chosen, suite_file, data, model, identity, output)
    if is_primary_process():
        if is_run:
            flat = [
                Metric(f"{name}/{key}", value, "", result["higher_is_better"].get(key))
                for name, result in done.items()
                for key, value in result["metrics"].items()
            ]
            results.write(path, step or 0, flat)
        say(f"{where} ({output}):\n{suite_run.format_table(chosen, done, faults)}")
        if averages and tasks is None:
            say(f"Averages of the main metrics:\n{suite_run.format_averages(chosen, done, averages)}")
    return not faults


def _choose(tasks: list[Task], names: Sequence[str] | None, path: Path) -> list[Task]:
    choices = [task.name for task in tasks]
    if names is not None and not names:
        raise UserError(f"--tasks: empty; choose from {', '.join(choices)}.")
    for name in names or []:
        if name not in choices:
            raise UserError(f"--tasks: unknown task {name!r} of {path}; choose from {', '.join(choices)}.")
    return [task for task in tasks if names is None or task.name in names]
