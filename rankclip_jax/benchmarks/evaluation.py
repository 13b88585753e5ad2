"""How many images a second a zero-shot evaluation takes, beside CLIP_benchmark's with PyTorch on the same files."""

import dataclasses
import functools
import importlib.util
import io
import os
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.benchmarks.timing import medians_in_turn, timed
from rankclip_jax.benchmarks.train import LENGTH
from rankclip_jax.embedding.embedder import Embedder
from rankclip_jax.evaluation.tasks import TASKS, Data, Measured
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import Wording
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.interop.files import import_torch
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.run import settings
from rankclip_jax.run.assembly import assemble

_CLASSES = 10
_BATCH = 64  # CLIP_benchmark's own


def run(config: ConfigDict, count: int) -> list[dict]:
    """Classifies made JPEGs of 500 x 375 pixels in turns, and prints a line for each version; the rows.

    Args:
      config: the settings, of which the model counts; both compute in float32, as evaluations do by default.
      count: of images.

    Raises:
      UserError: the settings are not usable.
    """
    settings.check_parts(config)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, count)
        source = open_set("webdataset", folder, "test", Wording())
        versions = {"rankclip_jax": _ours(config, source)}
        if theirs := _theirs(config, folder):
            versions["CLIP_benchmark"] = theirs
        seconds = medians_in_turn({name: timed(work) for name, work in versions.items()})
    rows = [
        {
            "version": name,
            "model": config.model.name,
            "device": jax.devices()[0].device_kind,
            "images_per_second": count / taken,
            "time_against_ours": taken / seconds["rankclip_jax"],
        }
        for name, taken in seconds.items()
    ]
    for row in rows:
        print(
            f"{row['version']:<15} {row['model']} on {row['device']}: {row['images_per_second']:,.1f} images/s "
            f"({row['time_against_ours']:.2f} x our time)"
        )
    return rows


def _write(folder: Path, count: int) -> None:
    """A dataset in CLIP_benchmark's layout, of images with edges and noise as photographs have."""
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


def _ours(config: ConfigDict, source: Source) -> Callable[[], object]:
    assembly = assemble(config, make_mesh(config.mesh), LENGTH, len(source))
    execution = dataclasses.replace(assembly.model.execution, dtype=jnp.dtype("float32"))
    embedder = Embedder(assembly.model.clone(execution=execution), assembly.layout)
    measured = Measured(embedder, assembly.draw_variables(jax.random.key(0)))

    def classify() -> object:
        with jax.default_matmul_precision("highest"):
            return TASKS["zero_shot"](measured, Data(source))

    return classify


def _theirs(config: ConfigDict, folder: Path) -> Callable[[], object] | None:
    """None, with a word on it: it cannot be compared."""
    missing = [name for name in ("torch", "open_clip", "clip_benchmark") if not importlib.util.find_spec(name)]
    if missing:
        print(f"note: {' and '.join(missing)} not installed, so ours is not compared with CLIP_benchmark")
        return None
    os.environ.setdefault("TQDM_DISABLE", "1")
    torch = import_torch("the comparison with CLIP_benchmark")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries compared with
        import open_clip
        from clip_benchmark.datasets.builder import build_wds_dataset
        from clip_benchmark.metrics.zeroshot_classification import run_classification
        from open_clip.transform import image_transform

        name = config.model.name
        if name not in open_clip.list_models():
            print(f"note: open_clip has no model {name}, so ours is not compared with CLIP_benchmark")
            return None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = open_clip.create_model(f"{name}-quickgelu" if f"{name}-quickgelu" in open_clip.list_models() else name)
        model = model.to(device).eval()
        side = model.visual.image_size
        transform = image_transform(side if isinstance(side, int) else side[0], is_train=False)
        data = build_wds_dataset("made", transform, split="test", data_dir=str(folder))
        # One tar, so one worker.
        loader = torch.utils.data.DataLoader(data.batched(_BATCH), batch_size=None, num_workers=1)
        with torch.no_grad():
            texts = model.encode_text(open_clip.get_tokenizer(name)(["a photo of a thing."] * _CLASSES).to(device))
    return functools.partial(run_classification, model, texts.T, loader, device, amp=False)
