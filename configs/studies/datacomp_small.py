"""The study of objectives at DataComp's scale small, with its training settings (Gadre et al., 2023).

python -m rankclip_jax.study --config configs/studies/datacomp_small.py --workdir runs/datacomp_small
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies import datacomp
from rankclip_jax.studies.definition import Study

STEPS, BATCH = 3125, 4096  # 12.8 million examples


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/datacomp_small"  # prepared from DataComp's shards (docs/data.md)
    config.data.validation = "data/cc3m"  # to tune on: its validation split
    config.model.name = "ViT-B-32"
    config.model.dtype = "auto"
    config.model.remat = "blocks"  # fits one 80 GB GPU
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_fraction = 0.0
    config.optimizer.warmup_steps = 500
    config.train.global_batch_size = BATCH
    config.train.steps = STEPS
    config.evaluation.tasks = datacomp.tasks("data/datacomp_eval")
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return datacomp.study("Which objective? DataComp small", "train.steps", STEPS, STEPS * BATCH, (2.5e-4, 5e-4, 1e-3))
