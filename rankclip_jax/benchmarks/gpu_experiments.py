"""The experiments of `benchmark gpu`, the most informative first.

Each is a generator of rows; ``summary`` is a row's line of text. Its argument selects a small version for CPUs.
"""

import functools
import operator
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from rankclip_jax.benchmarks import loss, train
from rankclip_jax.benchmarks.timing import columns, format_row, take_turns, timed
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.models.attention import Implementation, attention
from rankclip_jax.objectives import ranking
from rankclip_jax.recipes import base
from rankclip_jax.training.experiment import build_experiment, check

Row = dict[str, Any]
Experiment = Callable[[bool], Iterator[Row]]

_GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # in a checkout
# Tokens, heads, head width, and whether the mask is causal, for: ViT-B/16, its text tower, ViT-B/32, L/14, ViT-B/16
# with half of its patches, L/14 at 336 pixels, and H/14.
_ATTENTION = (
    (197, 12, 64, False), (77, 8, 64, True), (50, 12, 64, False), (257, 16, 64, False), (98, 12, 64, False),
    (577, 16, 64, False), (257, 16, 80, False),
)  # fmt: skip


def _device(small: bool) -> Iterator[Row]:
    del small
    device = jax.local_devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    row = {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "usable_gib": round(memory / 2**30, 1) or None,
        "platform": " ".join(device.client.platform_version.split()),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "date": date.today().isoformat(),
    }
    yield row | {"summary": ", ".join(f"{name}: {value}" for name, value in row.items() if value)}


def _golden(small: bool) -> Iterator[Row]:
    """Compares the released variant of the ranking terms with values of the release's own code in float64."""
    files = sorted(_GOLDEN.glob("n64_d64_*_e17.npz"))
    if not files:
        yield {"summary": "golden: skipped, no golden values; run from a checkout, which has them in tests/golden"}
    for path in files[: 1 if small else None]:
        golden = np.load(path)
        scale = jnp.float32(np.exp(golden["logit_scale"]))
        embeddings = [jnp.asarray(golden[name], jnp.float32) for name in ("image_embeds", "text_embeds")]
        terms = jax.jit(functools.partial(ranking.consistency, variant="released"))(*embeddings, scale)
        expected = [golden[name] / len(embeddings[0]) for name in ("crossmodal_rank_loss", "inmodal_rank_loss")]
        error = max(abs(float(a) / float(b) - 1) for a, b in zip(terms, expected, strict=True))
        yield {"file": path.name, "error": error, "summary": f"golden {path.stem}: ranking terms within {error:.1e}"}


def _attention(small: bool) -> Iterator[Row]:
    """Compares flash attention with XLA's: times, and errors of gradients relative to a float32 reference."""
    rows = 2 if small else 256
    for length, heads, width, causal in _ATTENTION[: 2 if small else None]:
        keys = jax.random.split(jax.random.key(0), 4)
        inputs = [jax.random.normal(key, (rows, length, heads, width), jnp.bfloat16) for key in keys]
        with jax.default_matmul_precision("highest"):
            exact = _attention_gradients("xla", causal)(*(x.astype(jnp.float32) for x in inputs))
        names: tuple[Implementation, ...] = ("xla",) if small else ("xla", "cudnn")
        programs = {name: _attention_gradients(name, causal) for name in names}
        errors = {name: _largest_error(program(*inputs), exact) for name, program in programs.items()}
        timings = take_turns({name: timed(functools.partial(program, *inputs)) for name, program in programs.items()})
        row = {"shape": [rows, length, heads, width], "causal": causal, "errors": errors} | timings.load_columns()
        for name in names:
            row |= columns(f"{name}_milliseconds", timings.spread(name, 1e3))
        words = [
            f"{name} {format_row(row, f'{name}_milliseconds', '.2f')} ms, error {errors[name]:.1e}" for name in names
        ]
        shape = f"[{rows}, {length}, {heads}, {width}]{', causal' * causal}"
        yield row | {"summary": f"attention {shape}, forward and backward: {'; '.join(words)}"}


def _attention_gradients(implementation: Implementation, causal: bool) -> Callable[..., tuple[jax.Array, ...]]:
    def total(query: jax.Array, key: jax.Array, value: jax.Array, weight: jax.Array) -> jax.Array:
        attended = attention(query, key, value, causal=causal, implementation=implementation)
        return jnp.vdot(attended.astype(jnp.float32), weight.astype(jnp.float32))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


def _largest_error(found: tuple[jax.Array, ...], exact: tuple[jax.Array, ...]) -> float:
    """Returns the largest error over several arrays, relative to the largest value of each."""
    pairs = zip(found, exact, strict=True)
    return max(float(jnp.max(jnp.abs(a.astype(b.dtype) - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def _step(small: bool, **changes: Any) -> Row:
    """Measures the training step with some settings changed."""
    config = base()
    config.train.steps, config.model.dtype = train.LENGTH, "float32" if small else "bfloat16"
    config.update_from_flattened_dict(changes)
    if small:
        config.model.name, config.train.global_batch_size = "ViT-demo", 16
    check(config, jax.device_count())
    experiment = build_experiment(config, make_mesh(config.mesh), train.LENGTH, config.train.global_batch_size)
    step, needed = train.step_of(experiment)
    timings = take_turns({train.OURS: step}, 3)
    (row,) = train.rows_of(experiment, timings)
    used = {name: operator.attrgetter(name)(config) for name in changes}  # the small version uses other values
    row |= {"settings": used, "needed_gib": needed / 2**30}
    row |= {"mfu": train.mfu(experiment, timings.median(train.OURS)), "peak_gib": train.peak_gib()}
    words = [f"{format_row(row, 'milliseconds')} ms", f"{format_row(row, 'pairs_per_second', ',.0f')} pairs/s"]
    words += [f"MFU {row['mfu']:.1%}"] if row["mfu"] else []
    words += [f"{row['needed_gib']:.2f} GiB by the compiler"]
    return row | {"summary": f"step {', '.join(f'{name}={value}' for name, value in used.items())}: {', '.join(words)}"}


def _model(name: str, batch_size: int, objective: str = "rankclip") -> Experiment:
    """Returns an experiment that measures the step of a model, with predicted and peak memory."""
    changes = {"model.name": name, "train.global_batch_size": batch_size, "objective.name": objective}

    def experiment(small: bool) -> Iterator[Row]:
        row = _step(small, **changes)
        peak = f", {row['peak_gib']:.2f} GiB at the peak" if row["peak_gib"] else ""
        yield row | {"summary": row["summary"] + peak}

    return experiment


def _beside_open_clip(name: str, batch_size: int) -> Experiment:
    """Returns an experiment that compares the step of a model with open_clip's in PyTorch at its fastest settings."""

    def experiment(small: bool) -> Iterator[Row]:
        config = base()
        config.model.name, config.objective.name, config.train.steps = name, "clip", train.LENGTH
        config.model.dtype = "float32" if small else "bfloat16"
        config.train.global_batch_size = 16 if small else batch_size
        if small:
            config.model.name = "ViT-demo"
        for row in train.run(config, 3, ours_only=False):
            yield row | {"summary": f"{row['version']} {name}: {format_row(row, 'milliseconds')} ms"}

    return experiment


def _variants(setting: str, *values: Any) -> Experiment:
    """Returns an experiment that measures the step of ViT-B/16 with several values of a setting."""

    def experiment(small: bool) -> Iterator[Row]:
        for value in values:
            if not (small and value == "cudnn"):
                yield _step(small, **{"model.name": "ViT-B-16", "train.global_batch_size": 512, setting: value})

    return experiment


def _loss(sizes: tuple[int, ...], setting: str, *values: Any) -> Experiment:
    """Returns an experiment that measures only the loss, by batch size, with several values of a setting."""

    def experiment(small: bool) -> Iterator[Row]:
        mesh = make_mesh(base().mesh)
        options: Row = {"objective": "rankclip", "embedding_size": 512, "variant": "exact", "chunk_size": 0}
        options |= {"list_size": 0, "precision": "auto", "mesh": mesh, "ours_only": True, "topology": None}
        for size in (8 * mesh.size,) if small else sizes:
            for value in values:
                (row,), _ = loss.measure(batch_size=size, **(options | {setting: value}))
                cost = f"{format_row(row, 'milliseconds')} ms, {row['temporary_gib']:.2f} GiB"
                yield row | {setting: value, "summary": f"loss of {size:,} pairs, {setting}={value}: {cost}"}

    return experiment


EXPERIMENTS: dict[str, Experiment] = {
    "device": _device,
    "golden": _golden,
    "attention": _attention,
    "ViT-B-32": _model("ViT-B-32", 1024),
    "ViT-B-16": _model("ViT-B-16", 512),
    "attention_in_step": _variants("model.attention", "cudnn", "xla"),
    "layers": _variants("model.scan_layers", True, False),
    "loss": _loss((2048, 8192, 32_768), "objective", "rankclip", "clip"),
    "remat": _variants("model.remat", "none", "cheap", "blocks"),
    "RN50": _model("RN50", 512),
    "ViT-L-14": _model("ViT-L-14", 128),
    "clip_ViT-B-32": _model("ViT-B-32", 1024, "clip"),
    "precision": _loss((8192,), "precision", "f16_x3", "tf32_x3", "bf16_x6", "highest"),
    "chunk": _loss((8192,), "chunk_size", 16, 64, 256),
    "open_clip_ViT-B-32": _beside_open_clip("ViT-B-32", 1024),
    "open_clip_ViT-B-16": _beside_open_clip("ViT-B-16", 512),
}
