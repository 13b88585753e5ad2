"""From a model and a dataset on the command line to a server."""

from http.server import ThreadingHTTPServer
from pathlib import Path

import jax

import rankclip_jax
from input_pipeline import array_record
from rankclip_jax.embedding.embedder import Embedder
from rankclip_jax.evaluation.suite_run import digest_of
from rankclip_jax.evaluation.tasks import Measured
from rankclip_jax.interop import loading
from rankclip_jax.parallel.layout import Layout
from rankclip_jax.parallel.mesh import make_local_mesh
from rankclip_jax.run.checkpoints import choose_step
from rankclip_jax.search.index import open_index
from rankclip_jax.search.server import Search, serve
from rankclip_jax.telemetry.console import say


def prepare(model: Path, data: Path, split: str, folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and searches what the index holds, which is made where it is not of this model and data.

    Args:
      model: whatever `rankclip_jax.load` reads.
      data: a prepared dataset.
      split: of it.
      folder: of the index.
      host: address.
      port: 0: any.

    Raises:
      UserError: there is no such model, dataset or split.
      OSError: the address cannot be used.
    """
    source = array_record.open_split(data, split, flag="data")
    is_run = (model / "checkpoints").is_dir()
    step = choose_step(model, None) if is_run else None
    encoder = rankclip_jax.load(model, step=step)
    content = model / "checkpoints" / str(step) if is_run else model
    about = {"weights": digest_of(content), "data": str(data.resolve()), "split": split, "records": len(source)}

    def embed():  # type: ignore[no-untyped-def]
        say(f"embedding {len(source):,} records once, into {folder}")
        found, layout = loading.read(model, step=step), Layout(make_local_mesh())
        variables = jax.device_put(found.variables, layout.replicated)
        return Measured(Embedder(found.model, layout), variables).embed(source)

    return serve(Search(encoder, source, open_index(folder, about, embed)), host, port)
