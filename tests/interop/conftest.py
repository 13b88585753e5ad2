"""A workdir made without training, and the PyTorch libraries that these tests compare with."""

import jax
import numpy as np
import pytest

from configs import demo
from rankclip_jax.checkpoints import workdir
from rankclip_jax.checkpoints.manager import Checkpoints
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.interop import files
from rankclip_jax.training.experiment import build_experiment
from rankclip_jax.training.state import abstract_state, create


def make_run(folder, objective="rankclip", **model_settings):
    """Writes the folder of a demo run at step 0, with weights that are not those of a start."""
    config = demo.get_config()
    config.model.update(model_settings)
    config.objective.name = objective
    experiment = build_experiment(config, make_local_mesh(), total_steps=1)
    state = create(experiment)
    noise = np.random.default_rng(0)
    shifted = jax.tree.map(lambda leaf: leaf + noise.normal(0, 0.02, leaf.shape).astype(np.float32), state.parameters)
    workdir.write_config(folder, config)
    checkpoints = Checkpoints(folder, config, abstract_state(experiment))
    checkpoints.save(state.replace(parameters=shifted))
    checkpoints.close()
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture(scope="session")
def torch():
    pytest.importorskip("torch")
    return files.import_torch("the tests")


@pytest.fixture(scope="session")
def open_clip(torch):
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="session")
def transformers(torch):
    return pytest.importorskip("transformers")
