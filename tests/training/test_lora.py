"""Low-rank adaptation: what stays, what is trained, and that a run is read, resumed and exported with the sum."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading
from rankclip_jax.models import lora
from tests.training.conftest import assert_bit_identical, final_state, read_metrics, small, train_small

FROZEN = ("^vision/", "^text/")
RANKS = (("attention_(in|out)/kernel", 3), ("patch_embedding/kernel", 2), ("token_embedding", 2))
KERNELS = {(f"{encoder}/transformer/blocks/attention_{way}/kernel", 3)
           for encoder in ("vision", "text") for way in ("in", "out")}  # fmt: skip
KERNELS |= {("vision/patch_embedding/kernel", 2), ("text/token_embedding/embedding", 2)}


def flat(parameters):
    return {"/".join(path): np.asarray(value) for path, value in flatten_dict(parameters).items()}


def summed(parameters):
    """``W + A B`` in float64, by a loop over what each matrix multiplies."""
    found = {name: value.astype(np.float64) for name, value in parameters.items() if not name.startswith("lora/")}
    for name in [name.removeprefix("lora/")[:-2] for name in parameters if name.endswith("/a")]:
        a, b = (parameters[f"lora/{name}/{part}"].astype(np.float64) for part in "ab")
        for index in np.ndindex(a.shape[:-2]):
            found[name][index] += a[index] @ (b[index] if b.ndim == a.ndim else b)
    return found


def parameters_of(workdir):
    return flat(final_state(workdir)[1]["parameters"])


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny):
    workdir = tmp_path_factory.mktemp("lora") / "run"
    train_small(workdir, optimizer__frozen=FROZEN, optimizer__lora=RANKS, optimizer__ema_decay=0.9)
    return workdir


@pytest.mark.slow
def test_kernels_stay_and_their_products_are_trained(adapted, tmp_path):
    train_small(tmp_path / "plain", train__steps=1)
    train_small(tmp_path / "start", optimizer__frozen=FROZEN, optimizer__lora=RANKS, train__steps=1)
    plain, first, found = parameters_of(tmp_path / "plain"), parameters_of(tmp_path / "start"), parameters_of(adapted)
    assert read_metrics(tmp_path / "plain")[0]["loss"] == read_metrics(tmp_path / "start")[0]["loss"]
    own = {name for name in found if name.startswith("lora/")}
    assert found.keys() - own == plain.keys()
    assert {(name[5:-2], found[name].shape[-1]) for name in own if name.endswith("/a")} == KERNELS
    for name in plain.keys() - {"logit_scale"}:
        np.testing.assert_array_equal(found[name], first[name])
    for name in own:
        assert not np.array_equal(found[name], first[name]), name


def test_a_run_is_read_with_the_sums(adapted):
    expected = summed(parameters_of(adapted))
    read = flat(loading.read(adapted).variables["params"])
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(read[name], value, rtol=1e-6, atol=1e-7, err_msg=name)
    average = flat(loading.read(adapted, weights="ema").variables["params"])
    assert average.keys() == expected.keys()
    assert not np.array_equal(average["text/token_embedding/embedding"], read["text/token_embedding/embedding"])


def test_a_run_resumes_bit_for_bit(adapted, tmp_path):
    shutil.copytree(adapted, tmp_path / "run")
    for step in (15, 20):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    train_small(tmp_path / "run", optimizer__frozen=FROZEN, optimizer__lora=RANKS, optimizer__ema_decay=0.9)
    assert_bit_identical(final_state(adapted), final_state(tmp_path / "run"))


def test_gradients_are_those_of_the_sums_by_the_chain_rule():
    rng = np.random.default_rng(0)
    kernels = {"blocks": {"kernel": rng.normal(size=(2, 5, 4))}, "patch": {"kernel": rng.normal(size=(2, 2, 3, 4))}}
    with jax.enable_x64(True):
        matrices = lora.init({"vision": kernels, "text": {}}, (("kernel", 2),), jax.random.key(0))
        matrices = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), matrices)
        of_sum = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), kernels)

        def value(matrices):
            merged = lora.merge({"vision": kernels, "text": {}, "lora": matrices})["vision"]
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, merged, of_sum)))

        found = jax.grad(value)(matrices)["vision"]
    for name, kernel in (("blocks", of_sum["blocks"]["kernel"]), ("patch", of_sum["patch"]["kernel"])):
        a, b = (matrices["vision"][name]["kernel"][part] for part in "ab")
        np.testing.assert_allclose(found[name]["kernel"]["a"], np.einsum("...io,...ro->...ir", kernel, b))
        of_b = np.einsum("lir,lio->lro", a, kernel) if name == "blocks" else np.einsum("hwir,hwio->ro", a, kernel)
        np.testing.assert_allclose(found[name]["kernel"]["b"], of_b)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((("nothing", 4),), "no parameter's name matches 'nothing'"),
        ((("attention_in/bias", 4),), "expected a matrix; found the shape"),
        ((("^head/", 4),), "no parameter's name matches '\\^head/'"),
        ((("attention_in/kernel", 2.5),), "expected a whole number; found 2.5"),
        ((("attention_in/kernel", 0),), "at least 1 and at most 4096; found 0"),
    ],
)
def test_pairs_that_no_model_can_have_are_refused_before_anything_is_written(pairs, words, tmp_path):
    with pytest.raises(UserError, match=rf"config\.optimizer\.lora.*{words}"):
        train_small(tmp_path / "run", optimizer__lora=pairs)
    assert not (tmp_path / "run").exists()


def test_all_blocks_of_a_stack_have_one_rank():
    from rankclip_jax.distributed.mesh import make_local_mesh
    from rankclip_jax.training.experiment import build_experiment

    config = small(model__name="ViT-demo", optimizer__lora=(("vision/.*blocks/[01]/attention_in/kernel", 2),))
    with pytest.raises(UserError, match="one rank for all stacked blocks; found 0, 2"):
        build_experiment(config, make_local_mesh(), 10).abstract_variables()


@pytest.mark.slow
def test_sharded_matrices_train_as_whole_ones(adapted, tmp_path):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]).reshape(2, 2), ("data", "fsdp"))
    train_small(
        tmp_path / "run", mesh, optimizer__frozen=FROZEN, optimizer__lora=RANKS, optimizer__ema_decay=0.9, mesh__fsdp=2
    )
    one, other = summed(parameters_of(adapted)), summed(parameters_of(tmp_path / "run"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=2e-4, err_msg=name)
