"""Serves a local search page for a model: a sentence or an image finds the nearest images and captions.

python -m rankclip_jax.explore --model PATH --data DIR [--split train] [--port 8000] [--index DIR]
"""

from pathlib import Path

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.object_stores import resolve

define_recipe()
_MODEL = flags.DEFINE_string(
    "model", None, "model to search with: a run, an export, or any other path that rankclip_jax.load reads"
)
_DATA = flags.DEFINE_string(
    "data", None, "prepared dataset to search in, written by rankclip_jax.input_pipeline.prepare"
)
_SPLIT = flags.DEFINE_string("split", "train", "split of the dataset")
_INDEX = flags.DEFINE_string("index", None, "folder of the embeddings; default: indexes/<model>-<data>-<split>")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on; use 0.0.0.0 to serve the whole network")
_PORT = flags.DEFINE_integer("port", 8000, "port to listen on; 0: any free port", lower_bound=0, upper_bound=65535)


def main() -> None:
    """Builds the index if it is missing, and serves the page until Ctrl-C."""
    model = entry.path_flag(_MODEL, "Use a model, such as --model runs/demo.")
    data = entry.path_flag(_DATA, "Use a prepared dataset, such as --data data/mine.")
    default = f"indexes/{model.stem}-{resolve(data).name}-{_SPLIT.value}"
    folder = (
        Path(default)
        if _INDEX.value is None
        else entry.local_path(_INDEX, f"Omit the flag for the default, {default}.")
    )
    from rankclip_jax.search import command  # after the flags, since importing JAX takes long
    from rankclip_jax.search import server as servers

    search = command.prepare(model, data, _SPLIT.value, folder)
    try:
        server = servers.serve(search, _HOST.value, _PORT.value)
    except OSError as error:
        raise UserError(
            f"--host, --port: cannot listen on {_HOST.value}:{_PORT.value} ({error}). Use another address or port."
        ) from error
    print(f"Search at http://{_HOST.value}:{server.server_address[1]}/ (press Ctrl-C to stop)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nstopped")


if __name__ == "__main__":
    entry.run(main)
