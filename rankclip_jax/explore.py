"""A search page on one's own model: type a sentence or drop an image, see the nearest images and captions.

python -m rankclip_jax.explore --model PATH --data DIR [--split train] [--port 8000] [--index DIR]
"""

from pathlib import Path

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.object_stores import resolve

define_recipe()
_MODEL = flags.DEFINE_string("model", None, "a run, an export, or anything else that rankclip_jax.load reads")
_DATA = flags.DEFINE_string("data", None, "a dataset that input_pipeline.prepare has written")
_SPLIT = flags.DEFINE_string("split", "train", "of the dataset")
_INDEX = flags.DEFINE_string("index", None, "folder of the embeddings; indexes/<model>-<data>-<split> unless given")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen at; 0.0.0.0 lets others on the network search too")
_PORT = flags.DEFINE_integer("port", 8000, "port to listen at; 0: any that is free", lower_bound=0, upper_bound=65535)


def main() -> None:
    """Makes the index where there is none yet, and serves until Ctrl-C."""
    model = entry.path_flag(_MODEL, "Name a model, such as --model runs/demo.")
    data = entry.path_flag(_DATA, "Name a prepared dataset, such as --data data/mine.")
    usual = f"indexes/{model.stem}-{resolve(data).name}-{_SPLIT.value}"
    folder = Path(usual) if _INDEX.value is None else entry.local_path(_INDEX, f"Leave it out for {usual}.")
    from rankclip_jax.search import command  # after the flags, since importing JAX takes long
    from rankclip_jax.search import server as servers

    search = command.prepare(model, data, _SPLIT.value, folder)
    try:
        server = servers.serve(search, _HOST.value, _PORT.value)
    except OSError as error:
        raise UserError(f"--host, --port: cannot listen at {_HOST.value}:{_PORT.value} ({error}).") from error
    print(f"Search at http://{_HOST.value}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nended")


if __name__ == "__main__":
    entry.run(main)
