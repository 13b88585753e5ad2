"""Run by `test_two_processes`: one of two processes whose devices take turns in the mesh embeds a dataset."""

import sys

import jax
import numpy as np
from jax.sharding import Mesh

from configs import demo
from rankclip_jax.checkpoints import workdir
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.input_pipeline.scenes import Scenes
from rankclip_jax.models.clip import Clip, init_variables
from rankclip_jax.models.presets import Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig

MODEL = Clip(
    Preset(
        16,
        VisionTransformerConfig(32, 8, 32, 1, 1),
        TextTransformerConfig(width=32, layers=1, heads=1, context_length=24),
    )
)
SOURCE = Scenes("validation", 23, 32)
TEXTS = [f"number {number}" for number in range(11)]


def variables():
    return jax.tree.map(np.asarray, jax.jit(lambda key: init_variables(MODEL, key))(jax.random.key(0)))


def main(port: str, index: str, path: str, folder: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index), initialization_timeout=60)
    ours, theirs = ([device for device in jax.devices() if device.process_index == number] for number in range(2))
    mesh = Mesh(np.asarray([device for pair in zip(theirs, ours, strict=True) for device in pair]), ("data",))
    embedder = Embedder(MODEL, Layout(mesh))
    embedded = embedder.dataset(variables(), SOURCE, len(SOURCE), batch_size=8)
    texts = embedder.texts(variables(), TEXTS)
    for number in range(20):
        workdir.write_config(workdir.Path(folder), demo.get_config())
        assert workdir.read_config(workdir.Path(folder))["seed"] == 0, number
    if index == "0":
        np.savez(path, image=embedded.image, text=embedded.text, index=embedded.index, texts=texts)


if __name__ == "__main__":
    main(*sys.argv[1:])
