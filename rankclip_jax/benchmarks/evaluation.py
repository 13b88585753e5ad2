"""Benchmark of zero-shot evaluation in images per second, compared with CLIP_benchmark in PyTorch on the same files."""

import contextlib
import dataclasses
import importlib.util
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.benchmarks.peer import (
    Peer,
    PeerError,
    choose,
    columns_of,
    format_trials,
    install_hint,
    settings_of_pytorch,
)
from rankclip_jax.benchmarks.timing import Spread, columns, format_row, print_conclusion, take_turns, timed
from rankclip_jax.benchmarks.train import LENGTH
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.evaluation.evaluation import Data, ModelUnderTest
from rankclip_jax.evaluation.zero_shot import ZeroShot
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.settings import validation
from rankclip_jax.training.experiment import build_experiment

_OURS = "rankclip_jax"
_CLASSES = 10


def run(config: ConfigDict, count: int) -> list[dict]:
    """Classifies synthetic JPEGs of 500 x 375 pixels, prints a line for each version, and returns the rows.

    Both sides run in float32, our default, and in 16 bits: ours in bfloat16, CLIP_benchmark with its default, amp.

    Args:
      config: the settings, of which only the model matters.
      count: number of images.

    Raises:
      UserError: the settings are invalid.
    """
    validation.check_values(config)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        _write(folder, count)
        source = open_set("webdataset", folder, "test", ClassPrompts())
        versions = {f"{_OURS}, {dtype}": timed(_ours(config, source, dtype)) for dtype in ("float32", "bfloat16")}
        peers = _peers(config, folder, stack)
        timings = take_turns(versions | {name: peer.seconds for name, peer in peers.items()})
    rows: list[dict] = []
    for name in timings.seconds:
        row: dict[str, Any] = {"version": name, "model": config.model.name, "device": jax.devices()[0].device_kind}
        row |= columns("images_per_second", Spread.of(count / seconds for seconds in timings.seconds[name]))
        row |= columns("time_against_ours", timings.ratio(name, to=f"{_OURS}, float32"))
        rows.append(row | timings.load_columns() | (columns_of(peers[name]) if name in peers else {}))
        print(
            f"{name:<23} {row['model']} on {row['device']}: {format_row(row, 'images_per_second')} images/s; "
            f"time relative to rankclip_jax in float32 {format_row(row, 'time_against_ours', '.2f')}"
        )
        if name in peers:
            print(format_trials(peers[name]))
    print_conclusion(timings)
    return rows


def _write(folder: Path, count: int) -> None:
    """Writes a dataset in CLIP_benchmark's layout, of synthetic images with edges and noise like photographs."""
    rng = np.random.default_rng(0)
    (folder / "test").mkdir()
    (folder / "test" / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("".join(f"thing {number}\n" for number in range(_CLASSES)))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375))
            pixels = np.asarray(coarse, np.int16) + rng.integers(-8, 9, (375, 500, 3))
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            for suffix, content in (("jpg", file.getvalue()), ("cls", str(number % _CLASSES).encode())):
                member = tarfile.TarInfo(f"{number:06}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _ours(config: ConfigDict, source: Source, dtype: str) -> Callable[[], object]:
    experiment = build_experiment(config, make_mesh(config.mesh), LENGTH, len(source))
    execution = dataclasses.replace(experiment.model.execution, dtype=jnp.dtype(dtype))
    embedder = Embedder(experiment.model.clone(execution=execution), experiment.layout)
    measured = ModelUnderTest(embedder, experiment.init_variables(jax.random.key(0)))

    def classify() -> object:
        with jax.default_matmul_precision("highest"):
            return ZeroShot().evaluate(dataclasses.replace(measured, embedded={}), Data(source))

    return classify


def _peers(config: ConfigDict, folder: Path, stack: contextlib.ExitStack) -> dict[str, Peer]:
    """Returns CLIP_benchmark with its fastest settings, without and with amp; prints a note if it cannot run."""
    if missing := [name for name in ("torch", "open_clip", "clip_benchmark") if not importlib.util.find_spec(name)]:
        print(f"note: no comparison with CLIP_benchmark: {install_hint(missing)}")
        return {}
    platform, peers = jax.default_backend(), {}
    candidates = stack.enter_context(settings_of_pytorch(platform, trains=False))
    for name, precision in (("float32", "no_amp"), ("amp", "amp")):
        words = [config.model.name, str(folder), platform, precision]
        try:
            peer = stack.enter_context(choose("rankclip_jax.benchmarks.clip_benchmark_zero_shot", words, candidates))
        except PeerError as error:
            print(f"note: no comparison with CLIP_benchmark: {error}")
            break
        peers[f"CLIP_benchmark, {name}"] = peer
    return peers
