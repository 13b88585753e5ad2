"""The study of objectives at DataComp's scale medium, with its training settings (Gadre et al., 2023).

python -m rankclip_jax.study --config configs/studies/datacomp_medium.py --workdir runs/datacomp_medium
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import builtin
from rankclip_jax.studies import datacomp
from rankclip_jax.studies.definition import Study

STEPS, BATCH = 31250, 4096  # 128 million examples


def get_config() -> ConfigDict:
    """Returns the settings of the scale small with the changes of this recipe."""
    config = builtin("studies/datacomp_small")["get_config"]()
    config.data.train = "data/datacomp_medium"
    config.train.steps = STEPS
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    rates = (2.5e-4, 5e-4, 1e-3)
    return datacomp.study("Which objective? DataComp medium", "train.steps", STEPS, STEPS * BATCH, rates)
