"""CLIP's ResNet: batch statistics as PyTorch keeps them, over both views of a modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rankclip_jax.models.clip import Clip
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.presets import Preset
from rankclip_jax.models.resnet import BatchNorm, ResNetConfig
from rankclip_jax.models.text_transformer import TextTransformerConfig

TINY = Preset(
    16,
    ResNetConfig(32, 16, (1, 1, 1, 1)),
    TextTransformerConfig(width=16, layers=1, heads=2, context_length=8, vocabulary_size=32),
)


@pytest.fixture
def batches():
    return np.random.default_rng(0).normal(3, 2, size=(3, 8, 2, 3, 5)).astype(np.float32)


def test_running_statistics_are_pytorchs(batches):
    """A few values each, so that the unbiased variance is 1.02 times the biased one."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(5)
    ours = BatchNorm(Execution())
    variables = ours.init(jax.random.key(0), jnp.asarray(batches[0]), train=False)
    assert set(variables["params"]) == {"scale", "bias"}
    for batch in batches:
        normalised, changed = ours.apply(variables, jnp.asarray(batch), train=True, mutable=["batch_stats"])
        variables = variables | changed
        expected = theirs(torch.from_numpy(batch.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(normalised, expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
    statistics = variables["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], theirs.running_var.numpy(), rtol=1e-5)


def test_running_statistics_are_of_the_rows_of_all_devices(batches, mesh_of):
    alone, together = BatchNorm(Execution()), BatchNorm(Execution(axes=("data",)))
    variables = alone.init(jax.random.key(0), jnp.asarray(batches[0]), train=False)

    def update(module, batch):
        return module.apply(variables, batch, train=True, mutable=["batch_stats"])[1]

    shared = jax.shard_map(
        lambda batch: update(together, batch),
        mesh=mesh_of(4),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    expected, found = update(alone, jnp.asarray(batches[0])), shared(jnp.asarray(batches[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, found)


@pytest.mark.slow
def test_both_views_of_a_modality_are_normalised_together():
    """As the release does with --inmodal: statistics of 2 B images, which move once a step."""
    rng = np.random.default_rng(0)
    views = {
        "image": rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
        "image_augmented": rng.integers(0, 64, (4, 32, 32, 3)).astype(np.uint8),
        "text": rng.integers(0, 32, (4, 8)).astype(np.int32),
        "text_augmented": rng.integers(0, 32, (4, 8)).astype(np.int32),
    }
    model = Clip(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), {"image": views["image"], "text": views["text"]})

    def apply(batch):
        return model.apply(variables, batch, train=True, mutable=["batch_stats"])

    outputs, changed = apply(views)
    assert set(outputs.embeddings) == set(views)
    together, expected = apply({"image": np.concatenate([views["image"], views["image_augmented"]])})
    np.testing.assert_allclose(outputs.embeddings["image"], together.embeddings["image"][:4], atol=1e-6)
    np.testing.assert_allclose(outputs.embeddings["image_augmented"], together.embeddings["image"][4:], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, changed, expected)
    for name in ("text", "text_augmented"):
        alone = model.apply(variables, views[name], method="encode_text")
        np.testing.assert_allclose(outputs.embeddings[name], alone, atol=1e-6)
