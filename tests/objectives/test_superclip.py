"""SuperCLIP's classification of words against loops in float64, and a training that learns them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import Step
from rankclip_jax.objectives.superclip import SuperClip, TokenClassifier
from tests.commands import run
from tests.objectives import numpy_reference as reference

VOCABULARY = 30
TOKENS = np.asarray([[28, 3, 4, 3, 29, 0], [28, 4, 29, 0, 0, 0], [28, 5, 6, 4, 7, 29], [28, 9, 9, 9, 29, 0]])


def made():
    declared = {name: setting.default for name, setting in SuperClip.declared().items()}
    return SuperClip(**(declared | {"vocabulary": VOCABULARY, "classification_weight": 0.3}))


def test_it_is_the_cross_entropy_with_words_weighted_by_rarity():
    objective, random = made(), np.random.default_rng(0)
    features = random.normal(size=(4, 5, 8))
    x, t = (reference.unit_rows(seed, 4, 6) for seed in (0, 1))
    before = np.zeros(VOCABULARY, np.int32)
    before[[28, 29, 4, 0]] = 10, 10, 7, 9
    state = {"captions_with_token": jnp.asarray(before), "captions": jnp.int32(10)}
    head = TokenClassifier(VOCABULARY)
    with jax.enable_x64(True):
        outputs = Outputs({"image": jnp.asarray(x), "text": jnp.asarray(t)}, {"scale": jnp.asarray(9.0)},
                          tokens={"image": jnp.asarray(features)})  # fmt: skip
        batch = {"text": jnp.asarray(TOKENS)}
        parameters = head.init(jax.random.key(0), outputs, batch)
        outputs = outputs._replace(head=head.apply(parameters, outputs, batch))
        result = objective.loss(outputs, Step(0.5, None, None, state, jnp.arange(4)))
    layer = parameters["params"]["words"]
    logits = features.mean(axis=1) @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
    counts = before + [sum(token in row for row in TOKENS.tolist()) for token in range(VOCABULARY)]
    words = 0.0
    for row, scores in zip(TOKENS.tolist(), reference.log_softmax(logits), strict=True):
        weight = {token: max(np.log(14 / (1 + counts[token])), 0) for token in set(row)}
        words -= sum(value * scores[token] for token, value in weight.items()) / sum(weight.values()) / 4
    assert result.metrics["classification"] == pytest.approx(words, rel=1e-5)
    assert result.loss == pytest.approx(reference.contrastive(x, t, 9.0) + 0.3 * words, rel=1e-5)
    np.testing.assert_array_equal(result.state["captions_with_token"], counts)
    assert result.state["captions"] == 14


@pytest.mark.slow
def test_words_are_learned_and_the_counts_are_kept(tmp_path):
    flags = ["--config.objective.name=superclip", "--config.train.steps=12", "--config.logging.every_steps=1",
             "--config.train.global_batch_size=32", "--config.data.workers=0",
             "--config.train.accumulation=2"]  # fmt: skip
    said = run("train", "--config", "demo", "--workdir", tmp_path / "run", *flags, devices=2).stdout
    losses = [float(loss) for loss in re.findall(r"classification (\d\S+)", said)]
    assert losses[11] < losses[0] - 1
    import orbax.checkpoint as ocp

    saved = ocp.StandardCheckpointer().restore(tmp_path / "run" / "checkpoints" / "12" / "default")
    assert saved["objective_state"]["captions"] == 12 * 32
