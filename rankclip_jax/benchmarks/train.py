"""Benchmark of a recipe's training step on the attached devices, compared with open_clip's."""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.benchmarks.peer import (
    Peer,
    PeerError,
    choose,
    columns_of,
    format_trials,
    install_hint,
    settings_of_pytorch,
)
from rankclip_jax.benchmarks.timing import (
    Spread,
    Timed,
    Timings,
    columns,
    format_row,
    print_conclusion,
    take_turns,
    timed,
)
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import Step
from rankclip_jax.planning.hardware import peak_flops
from rankclip_jax.planning.plan import useful_flops
from rankclip_jax.planning.program import bytes_needed
from rankclip_jax.training.compilation import compile_step
from rankclip_jax.training.experiment import Experiment, build_experiment, check
from rankclip_jax.training.state import create
from rankclip_jax.training.step import abstract_batch, trace_step

LENGTH = 10**6  # length of the run in steps, which the schedule needs; a step's cost does not depend on it
OURS, LOSS, PEER = "rankclip_jax", "the loss alone", "open_clip"


def run(config: ConfigDict, steps: int, ours_only: bool) -> list[dict]:
    """Measures the step of a recipe, prints a line for each version, and returns the rows.

    Batches are already on the device. open_clip runs with the fastest of the settings that are tried.

    Args:
      config: the settings.
      steps: steps of each version per turn.
      ours_only: whether to skip open_clip.

    Raises:
      UserError: the settings are invalid, or the step does not fit in memory.
    """
    check(config, jax.device_count())
    experiment = build_experiment(
        config, make_mesh(config.mesh), config.train.steps or LENGTH, config.train.global_batch_size
    )
    ours, needed = step_of(experiment)
    versions = {OURS: ours, LOSS: loss_of(experiment)}
    with contextlib.ExitStack() as stack:
        peer = None if ours_only else stack.enter_context(_peer(experiment))
        if peer:
            versions[PEER] = peer.seconds
        timings = take_turns(versions, steps)
    rows = rows_of(experiment, timings)
    rows[0] |= {
        "loss_share": None if timings.is_busy else timings.median(LOSS) / timings.median(OURS),
        "needed_gib": needed / 2**30,
        "peak_gib": peak_gib(),
        "mfu": mfu(experiment, timings.median(OURS)),
    }
    for row in rows:
        print(_format(row))
    if peer:
        rows[-1] |= columns_of(peer)
        print(format_trials(peer))
    print_conclusion(timings)
    return rows


def rows_of(experiment: Experiment, timings: Timings) -> list[dict[str, Any]]:
    """Returns a row for each version, with its times and range, model, dtype, device and batch size."""
    config, batch = experiment.config, experiment.config.train.global_batch_size
    return [
        {
            "version": name,
            "model": config.model.name,
            "objective": config.objective.name if name != PEER else "clip",
            "dtype": config.model.dtype,
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "global_batch_size": batch,
        }
        | columns("milliseconds", timings.spread(name, 1e3))
        | columns("pairs_per_second", Spread.of(batch / seconds for seconds in timings.seconds[name]))
        | columns("time_against_ours", timings.ratio(name, to=OURS))
        | timings.load_columns()
        for name in timings.seconds
    ]


def peak_gib() -> float | None:
    """Returns the peak memory in use on a device of this process so far; None: unknown."""
    statistics_of_device = jax.local_devices()[0].memory_stats() or {}
    return statistics_of_device.get("peak_bytes_in_use", 0) / 2**30 or None


def mfu(experiment: Experiment, seconds: float) -> float | None:
    """Returns the model FLOPs utilisation of a step that takes ``seconds``; None: the devices' peak is unknown."""
    peak = (peak_flops(jax.devices()[0].device_kind) or 0.0) * jax.device_count()
    return (
        useful_flops(trace_step, experiment.config, list(experiment.layout.mesh.devices.flat)) / seconds / peak
        if peak
        else None
    )


def _format(row: dict[str, Any]) -> str:
    line = (
        f"{row['version']:<15} {row['model']} {row['objective']} {row['dtype']}, {row['global_batch_size']:,} pairs on "
    )
    line += f"{row['devices']} x {row['device']}: {format_row(row, 'milliseconds')} ms per step, "
    line += f"{row['pairs_per_second']:,.1f} pairs/s; "
    line += f"time relative to rankclip_jax {format_row(row, 'time_against_ours', '.2f')}"
    if "needed_gib" in row:
        line += f"\n    {row['needed_gib']:.2f} GiB per device by the compiler"
        line += f", {row['peak_gib']:.2f} at the peak" if row["peak_gib"] else ""
        line += f", loss {row['loss_share']:.1%} of the step" if row["loss_share"] else ""
        line += f", MFU {row['mfu']:.1%} of the bfloat16 peak" if row["mfu"] else ""
    return line


def step_of(experiment: Experiment) -> tuple[Timed, int]:
    """Returns our training step as a timed version, and the bytes that its program needs per device."""
    step: Any = compile_step(experiment, announce=True)
    state, batch = create(experiment), experiment.layout.put_rows(random_batch(experiment))

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return timed(once), bytes_needed(step)


def random_batch(experiment: Experiment) -> dict[str, np.ndarray]:
    """Returns a batch of random pixels and token ids, with an end-of-text token in each text."""
    rng, vocabulary = np.random.default_rng(0), experiment.model.preset.text.vocabulary_size
    rows = {}
    for name, like in abstract_batch(experiment).items():
        if name.startswith("teacher"):
            rows[name] = rng.normal(size=like.shape).astype(like.dtype)
            continue
        largest = 256 if like.dtype == np.uint8 else vocabulary - 1
        rows[name] = rng.integers(0, largest, like.shape).astype(like.dtype)
        if name.startswith("text"):
            rows[name][np.arange(len(rows[name])), rng.integers(1, like.shape[1], len(rows[name]))] = vocabulary - 1
        if name == "sample":
            rows[name] = np.arange(len(rows[name]), dtype=like.dtype)
    return rows


def loss_of(experiment: Experiment) -> Timed:
    """Returns the objective and its gradients for given embeddings as a timed version."""
    layout, size = experiment.layout, experiment.config.train.global_batch_size
    scalars = {name: jnp.asarray(value) for name, value in experiment.objective.initial_parameters().items()}
    scalars["scale"], state = jnp.float32(1 / 0.07), experiment.initial_objective_state()

    def loss(embeddings: dict[str, jax.Array]) -> jax.Array:
        step = Step(0.5, jax.random.key(0), layout.mesh, state, jnp.arange(size))
        return experiment.objective.loss(Outputs(embeddings, scalars), step).loss

    rng, width = np.random.default_rng(0), experiment.model.preset.embedding_size
    names = [name for name in abstract_batch(experiment) if name != "sample"]
    rows = {name: rng.normal(size=(size, width)).astype(np.float32) for name in names}
    embeddings = layout.put_rows({name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in rows.items()})
    program = jax.jit(jax.value_and_grad(loss)).lower(embeddings).compile()

    return timed(functools.partial(program, embeddings))


@contextlib.contextmanager
def _peer(experiment: Experiment) -> Iterator[Peer | None]:
    """A context with open_clip's step at its fastest settings; None, with a printed note, if it cannot run."""
    config, platform = experiment.config, jax.default_backend()
    missing = [name for name in ("torch", "open_clip") if not importlib.util.find_spec(name)]
    if missing:
        print(f"note: no comparison with open_clip's step: {install_hint(missing)}")
        yield None
        return
    words = [config.model.name, str(config.train.global_batch_size), config.model.dtype, platform]
    with settings_of_pytorch(platform, trains=True) as candidates:
        try:
            peer = choose("rankclip_jax.benchmarks.open_clip_step", words, candidates)
        except PeerError as error:
            print(f"note: no comparison with open_clip's step: {error}")
            yield None
            return
        with peer:
            yield peer
