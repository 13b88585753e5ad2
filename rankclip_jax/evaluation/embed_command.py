"""Embeds the training data of a recipe with a model, and stores the embeddings in a folder; resumes what is begun."""

import io
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax import input_pipeline, recipes
from rankclip_jax.cli.console import format_duration, renew, say
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.input_pipeline.embeddings import CHUNK, StoredEmbeddings, path_of, write_facts
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.input_pipeline.source import Mixture, Sample, Source, identity_of
from rankclip_jax.interop import loading

_ROWS = 256  # encoded at once on each device


def embed(config: ConfigDict, weights: Path, output: Path) -> None:
    """Embeds every image and caption of the training data, as evaluation sees them.

    Args:
      config: the recipe's settings; only those of the data count.
      weights: a path that `rankclip_jax.load` reads.
      output: the folder to write; parts that it has are kept.

    Raises:
      UserError: the data or the weights are not usable, or the folder has embeddings of others.
    """
    try:
        loaded = loading.read(weights)
    except UserError as error:
        raise UserError(f"--weights: {error}") from error
    preset, layout = loaded.model.preset, Layout(make_mesh(recipes.base().mesh))
    source = input_pipeline.open_source(config.data, "train", image_size=preset.vision.image_size, seed=config.seed)
    scale = float(np.exp(loaded.variables["params"]["logit_scale"]))
    _, digest = loading.identify(weights)
    stored = StoredEmbeddings(output, len(source), preset.embedding_size, scale, identity_of(source))
    write_facts(output, stored, digest)
    embedder, variables = Embedder(loaded.model, layout), jax.device_put(loaded.variables, layout.replicated)
    missing = [part for part in range(stored.parts) if not path_of(output, "first", part).exists()]
    start = time.monotonic()
    for done, part in enumerate(missing):
        left = format_duration((time.monotonic() - start) / done * (len(missing) - done)) if done else "unknown time"
        renew(f"embedding part {part + 1} of {stored.parts}, {left} left")
        numbers = range(part * CHUNK, min((part + 1) * CHUNK, len(source)))
        embedded = embedder.dataset(
            variables,
            Sample(_joined(source), numbers),
            len(numbers),
            batch_size=_ROWS * jax.device_count(),
            threads=config.data.threads,
            workers=config.data.workers,
            max_pixels=config.data.max_pixels,
        )
        _write(output, part, embedded, len(numbers))
    say(f"Embeddings of {len(source):,} records: {output}")


def _write(output: Path, part: int, embedded: Embedded, size: int) -> None:
    """Writes a part; the file that marks it as finished comes last."""
    image = np.zeros((size, embedded.image.shape[1]), np.float16)
    image[embedded.index] = embedded.image
    counts = np.zeros(size, np.int64)
    counts[embedded.index] = np.bincount(embedded.image_of_text, minlength=len(embedded.index))
    first = np.concatenate([[0], np.cumsum(counts)])
    for kind, array in (("image", image), ("text", embedded.text.astype(np.float16)), ("first", first)):
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        write_atomically(path_of(output, kind, part), content.getvalue())


def _joined(source: Source | Mixture) -> Source:
    """Returns a mixture's datasets one after the other, as ``sample`` counts them."""
    return _Concatenation(source.parts) if isinstance(source, Mixture) else source


class _Concatenation:
    def __init__(self, parts: tuple[Source, ...]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - int(self._ends[part - 1]) if part else index]
