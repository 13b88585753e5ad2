"""The search command: opens the model, the dataset and its index."""

import hashlib
import json
from pathlib import Path

import jax

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.evaluation.evaluation import ModelUnderTest
from rankclip_jax.input_pipeline import array_record
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import check_writable
from rankclip_jax.input_pipeline.object_stores import sizes_below
from rankclip_jax.input_pipeline.preparation import manifest
from rankclip_jax.interop import loading
from rankclip_jax.search.index import open_index
from rankclip_jax.search.server import Search


def prepare(model: Path, data: Path, split: str, folder: Path) -> Search:
    """Opens the index of a model and a dataset, or builds it if there is none.

    Args:
      model: a path that `rankclip_jax.load` reads.
      data: a prepared dataset.
      split: the split of the dataset.
      folder: the folder of the index.

    Raises:
      UserError: the model, dataset or split does not exist, or the index cannot be written.
    """
    source = array_record.open_split(data, split, flag="data")
    step, digest = loading.identify(model)
    weights = loading.read(model, step=step)
    about = {"weights": digest, "data": identify_data(data, split), "split": split, "records": len(source)}

    def embed() -> Embedded:
        check_writable(folder)
        say(f"building the index: embedding {len(source):,} records into {folder}")
        layout = Layout(make_local_mesh())
        variables = jax.device_put(weights.variables, layout.replicated)
        return ModelUnderTest(Embedder(weights.model, layout), variables).embed(source)

    try:
        index = open_index(folder, about, embed)
    except OSError as error:
        raise UserError(f"--index: {folder} cannot be written ({error}). Use another folder.") from error
    return Search(Encoder(weights.model, weights.variables), source, index)


def identify_data(data: Path, split: str) -> str:
    """Returns a digest that identifies a prepared split, from its manifest entry and its files' sizes."""
    sizes = {name: size for name, size in sizes_below(data).items() if f"-{split}." in name}
    entry = manifest.read(data)["splits"].get(split)
    return hashlib.sha256(json.dumps([sizes, entry], sort_keys=True).encode()).hexdigest()
