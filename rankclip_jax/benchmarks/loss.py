"""Benchmark of the loss and its gradients: time, memory and traffic, compared with a straightforward version."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax import recipes
from rankclip_jax.benchmarks.timing import Timings, columns, format_row, print_conclusion, take_turns, timed
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step, ranking
from rankclip_jax.planning import program
from rankclip_jax.planning.topology import Topology, topology_of
from rankclip_jax.training.settings import LARGEST_BATCH

LossAndGradients = Callable[[jax.Array, jax.Array, jax.Array], tuple]


def run(sizes: list[str], *, objective: str, topology_name: str | None, list_size: int, **how: Any) -> list[dict]:
    """Measures each batch size, prints a line for each version of the loss, and returns the rows.

    Args:
      sizes: global batch sizes, as given on the command line.
      objective: the objective's name.
      topology_name: devices to compile for; None: the attached devices, on which the programs are also run.
      list_size: columns that a row is ranked against; 0: all.
      **how: further arguments of `measure`.

    Raises:
      UserError: the objective is unknown, or the devices do not divide a size, or the list size exceeds it.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"--objective: unknown value {objective!r}; choose from {', '.join(OBJECTIVES)}.")
    topology = topology_of(topology_name) if topology_name else None
    mesh = make_mesh(recipes.base().mesh, topology.devices() if topology else None)
    rows, timings = [], []
    for size in check_sizes(sizes, mesh.size, list_size):
        size_rows, turns = measure(objective, batch_size=size, mesh=mesh, topology=topology, list_size=list_size, **how)
        for row in size_rows:
            print(_format(row), flush=True)
        rows += size_rows
        timings += [turns] if turns else []
    print_conclusion(*timings)
    return rows


def check_sizes(words: list[str], devices: int, list_size: int = 0) -> list[int]:
    """Returns the batch sizes of a command line.

    Raises:
      UserError: one cannot be split evenly over the devices, or is smaller than the list size.
    """
    sizes = [int(word) if word.isdecimal() and len(word) < 10 else 0 for word in words]
    for size in sizes or [0]:
        if not 2 <= size <= LARGEST_BATCH or size % devices:
            raise UserError(
                f"--batch_sizes: expected multiples of {devices} (the number of devices) from 2 to {LARGEST_BATCH}; "
                f"found {','.join(words)!r}."
            )
        if list_size > size:
            raise UserError(
                f"--list_size: expected at most the batch size, {size}; found {list_size}. Use --list_size={size}."
            )
    return sizes


def _format(row: dict) -> str:
    text = f"{row['objective']} {row['version']:<15}  B {row['batch_size']:>7,}  D {row['embedding_size']}"
    text += f"  {row['devices']} device(s)  {row['temporary_gib']:8.3f} GiB temporary"
    if "milliseconds" in row:
        text += f"  {format_row(row, 'milliseconds')} ms"
        text += f"; time relative to rankclip_jax {format_row(row, 'time_against_ours', '.2f')}"
    for moved in row.get("collectives", []):
        text += f"\n    {moved['kind']}: {moved['count']}, {moved['bytes']:,} bytes"
    return text


def measure(
    objective: str,
    *,
    batch_size: int,
    embedding_size: int,
    mesh: Mesh,
    variant: ranking.Variant,
    chunk_size: int,
    list_size: int,
    precision: str,
    ours_only: bool,
    topology: Topology | None,
) -> tuple[list[dict], Timings | None]:
    """Returns a row for our version and, if there is one, for the straightforward version, and their timings.

    On real devices both are run in turns and timed; for a topology both are only compiled. Memory is what the compiler
    allocates on one device beyond arguments and results.
    """
    config = recipes.base().objective
    config.variant, config.chunk_size, config.list_size, config.precision = variant, chunk_size, list_size, precision
    programs = {"rankclip_jax": _ours(objective, config, mesh)}
    if objective == "rankclip" and not list_size and not ours_only:
        programs["straightforward"] = _straightforward(variant)
    shapes = [(batch_size, embedding_size), (batch_size, embedding_size), ()]
    layout = Layout(mesh)
    layouts = [layout.rows, layout.rows, layout.replicated]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=x) for shape, x in zip(shapes, layouts, strict=True)]
    compiled = {}
    rows = {}
    for name, function in programs.items():
        outputs = (layout.replicated, tuple(layouts))
        lowered = jax.jit(function, in_shardings=tuple(layouts), out_shardings=outputs).lower(*arguments)
        options = topology.compiler_options if topology else {}
        compiled[name] = lowered.compile(compiler_options=options)
        memory: Any = compiled[name].memory_analysis()
        rows[name] = {
            "objective": objective,
            "version": name,
            "variant": variant,
            "batch_size": batch_size,
            "embedding_size": embedding_size,
            "devices": mesh.size,
            "chunk_size": chunk_size or "auto",
            "precision": precision,
            "temporary_gib": memory.temp_size_in_bytes / 2**30,
        }
        if topology:
            moved = program.collectives(str(compiled[name].as_text()), mesh)
            rows[name]["collectives"] = [dataclasses.asdict(collective) for collective in moved]
    if not topology:
        inputs = _inputs(arguments)
        versions = {name: timed(functools.partial(function, *inputs)) for name, function in compiled.items()}
        timings = take_turns(versions)
        for name, row in rows.items():
            row.update(columns("milliseconds", timings.spread(name, 1e3)))
            row.update(columns("time_against_ours", timings.ratio(name, to="rankclip_jax")))
            row.update(timings.load_columns())
        return list(rows.values()), timings
    return list(rows.values()), None


def _ours(objective: str, config: ConfigDict, mesh: Mesh) -> LossAndGradients:
    method = OBJECTIVES[objective].from_config(config)

    def loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array) -> jax.Array:
        own = {name: jnp.asarray(value) for name, value in method.initial_parameters().items()}
        scalars = {"scale": jnp.exp(logit_scale)} | own
        step = Step(jnp.float32(1), jax.random.key(0), mesh)
        return method.loss(Outputs({"image": image, "text": text}, scalars), step).loss

    return jax.value_and_grad(loss, argnums=(0, 1, 2))


def _straightforward(variant: ranking.Variant) -> LossAndGradients:
    """Returns a straightforward version of RankCLIP's loss: full similarity matrices, argsort, and autodiff."""

    def listmle(scores: jax.Array, relevance: jax.Array) -> jax.Array:
        order = jnp.argsort(-jax.lax.stop_gradient(relevance), axis=1)
        ordered = jnp.take_along_axis(scores, order, axis=1)
        if variant == "released":
            ordered -= jnp.max(ordered, axis=1, keepdims=True)
            tails = jax.lax.cumsum(jnp.exp(ordered), axis=1, reverse=True)
            logs = jnp.log(tails + ranking.RELEASED_EPSILON)
        else:
            logs = jax.lax.cumlogsumexp(ordered, axis=1, reverse=True)
        return jnp.mean(jnp.sum(logs - ordered, axis=1))

    def loss(image: jax.Array, text: jax.Array, logit_scale: jax.Array) -> jax.Array:
        scale = jnp.exp(logit_scale)
        image_text, image_image, text_text = scale * image @ text.T, scale * image @ image.T, scale * text @ text.T
        contrastive = -jnp.mean(
            jnp.diag(jax.nn.log_softmax(image_text, axis=1)) + jnp.diag(jax.nn.log_softmax(image_text, axis=0))
        )
        lists = listmle(image_text, image_text.T) + listmle(image_text.T, image_text)
        lists += listmle(image_image, text_text) + listmle(text_text, image_image)
        return contrastive / 2 + 2 * lists / ranking.RELEASED_DIVISOR / len(image)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))


def _inputs(arguments: list[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """Returns random unit rows, and CLIP's initial logit scale."""
    rng = np.random.default_rng(0)
    inputs = []
    for argument in arguments:
        rows = rng.normal(size=argument.shape).astype(np.float32)
        value = rows / np.linalg.norm(rows, axis=-1, keepdims=True) if rows.ndim else np.float32(np.log(1 / 0.07))
        inputs.append(jax.device_put(value, argument.sharding))
    return inputs
