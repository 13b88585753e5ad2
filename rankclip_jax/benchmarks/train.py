"""How fast a recipe's training step is on the devices that are here, beside open_clip's."""

import functools
import importlib.util
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.benchmarks.timing import Timed, medians_in_turn, timed
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import Step
from rankclip_jax.parallel.hardware import peak_flops
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.planning.plan import useful_flops
from rankclip_jax.planning.program import bytes_needed
from rankclip_jax.run import settings
from rankclip_jax.run.assembly import Assembly, assemble
from rankclip_jax.run.state import create
from rankclip_jax.run.step import describe_batch
from rankclip_jax.training.compilation import compile_step

LENGTH = 10**6  # of a run, which its schedule needs; what a step costs does not depend on it


def run(config: ConfigDict, steps: int, ours_only: bool) -> list[dict]:
    """Times the step of a recipe and prints a line for each version of it; the rows.

    Both versions take turns, so that a drifting machine is fair to both, and are given batches that lie on the device.

    Args:
      config: the settings.
      steps: of each version in a turn.
      ours_only: leave open_clip out.

    Raises:
      UserError: the settings are not usable, or the step does not fit.
    """
    settings.check(config, jax.device_count())
    assembly = assemble(config, make_mesh(config.mesh), config.train.steps or LENGTH, config.train.global_batch_size)
    ours, needed = _our_steps(assembly)
    versions = {"rankclip_jax": ours, "the loss alone": _loss_alone(assembly)}
    peer = None if ours_only else _start_peer(config)
    if peer:
        versions["open_clip"] = lambda count: _peers_seconds(peer, count)
    medians = medians_in_turn(versions, steps)
    if peer:
        peer.send_signal(signal.SIGCONT)
        peer.communicate()
    batch, kind = config.train.global_batch_size, jax.devices()[0].device_kind
    peak = (peak_flops(kind) or 0.0) * jax.device_count()
    rows = [
        {
            "version": name,
            "model": config.model.name,
            "objective": config.objective.name if name != "open_clip" else "clip",
            "dtype": config.model.dtype,
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "global_batch_size": batch,
            "milliseconds": 1e3 * median,
            "pairs_per_second": batch / median,
            "time_against_ours": median / medians["rankclip_jax"],
        }
        for name, median in medians.items()
    ]
    statistics_of_device = jax.local_devices()[0].memory_stats() or {}
    rows[0] |= {
        "loss_share": medians["the loss alone"] / medians["rankclip_jax"],
        "needed_gib": needed / 2**30,
        "peak_gib": statistics_of_device.get("peak_bytes_in_use", 0) / 2**30 or None,
        "mfu": useful_flops(assembly) / medians["rankclip_jax"] / peak if peak else None,
    }
    for row in rows:
        print(_format(row))
    return rows


def _format(row: dict[str, Any]) -> str:
    line = (
        f"{row['version']:<15} {row['model']} {row['objective']} {row['dtype']}, {row['global_batch_size']:,} pairs on "
    )
    line += f"{row['devices']} x {row['device']}: {row['milliseconds']:,.1f} ms a step, {row['pairs_per_second']:,.1f} "
    line += f"pairs/s ({row['time_against_ours']:.2f} x ours)"
    if "loss_share" in row:
        line += f"\n    loss {row['loss_share']:.1%} of the step, {row['needed_gib']:.2f} GiB a device by the compiler"
        line += f", {row['peak_gib']:.2f} at the peak" if row["peak_gib"] else ""
        line += f", {row['mfu']:.1%} of the peak of bfloat16 in useful operations (MFU)" if row["mfu"] else ""
    return line


def _our_steps(assembly: Assembly) -> tuple[Timed, int]:
    """Takes so many steps and tells the seconds of each; and the bytes that the program needs."""
    step: Any = compile_step(assembly, announce=True)
    state, batch = create(assembly), assembly.layout.put_rows(random_batch(assembly))

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return timed(once), bytes_needed(step)


def random_batch(assembly: Assembly) -> dict[str, np.ndarray]:
    """Random pixels and words; each text ends somewhere."""
    rng, vocabulary = np.random.default_rng(0), assembly.model.preset.text.vocabulary_size
    rows = {}
    for name, like in describe_batch(assembly).items():
        largest = 256 if like.dtype == np.uint8 else vocabulary - 1
        rows[name] = rng.integers(0, largest, like.shape).astype(like.dtype)
        if name.startswith("text"):
            rows[name][np.arange(len(rows[name])), rng.integers(1, like.shape[1], len(rows[name]))] = vocabulary - 1
        if name == "sample":
            rows[name] = np.arange(len(rows[name]), dtype=like.dtype)
    return rows


def _loss_alone(assembly: Assembly) -> Timed:
    """The objective and its gradients for embeddings that are there."""
    layout, size = assembly.layout, assembly.config.train.global_batch_size
    scalars = {name: jnp.asarray(value) for name, value in assembly.own_parameters.items()}
    scalars["scale"], method_state = jnp.float32(1 / 0.07), assembly.initial_method_state()

    def loss(embeddings: dict[str, jax.Array]) -> jax.Array:
        step = Step(0.5, jax.random.key(0), layout.mesh, method_state, jnp.arange(size))
        return assembly.objective(Outputs(embeddings, scalars), step)[0]

    rng, width = np.random.default_rng(0), assembly.model.preset.embedding_size
    names = [name for name in describe_batch(assembly) if name != "sample"]
    rows = {name: rng.normal(size=(size, width)).astype(np.float32) for name in names}
    embeddings = layout.put_rows({name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in rows.items()})
    program = jax.jit(jax.value_and_grad(loss)).lower(embeddings).compile()

    return timed(functools.partial(program, embeddings))


def _start_peer(config: ConfigDict) -> "subprocess.Popen[str] | None":
    """open_clip's step in a process of its own, built and waiting; None, with a word on it: it cannot be compared."""
    missing = [name for name in ("torch", "open_clip") if not importlib.util.find_spec(name)]
    if missing:
        print(f"note: {' and '.join(missing)} not installed, so ours is not compared with open_clip's step")
        return None
    words = [config.model.name, str(config.train.global_batch_size), config.model.dtype, jax.default_backend()]
    peer = subprocess.Popen(
        [sys.executable, "-m", "rankclip_jax.benchmarks.open_clip_step", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert peer.stdout
    said = peer.stdout.readline().strip()
    if said == "ready":
        return peer
    peer.communicate()
    print(f"note: ours is not compared with open_clip's step: {said or 'it does not start'}")
    return None


def _peers_seconds(peer: "subprocess.Popen[str]", count: int) -> float:
    """Of one step; between its turns the process is stopped, since some of its threads wait by turning."""
    assert peer.stdin
    assert peer.stdout
    peer.send_signal(signal.SIGCONT)
    peer.stdin.write(f"{count}\n")
    peer.stdin.flush()
    seconds = float(peer.stdout.readline())
    peer.send_signal(signal.SIGSTOP)
    return seconds
