"""The study of objectives on CC3M with ResNet-50, batches of 1,024 and 30 epochs, as FastCLIP and others report it.

python -m rankclip_jax.study --config configs/studies/cc3m.py --workdir runs/cc3m_study
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies import datacomp
from rankclip_jax.studies.definition import Study

EPOCHS = 30


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/cc3m"  # docs/data.md has the download
    config.data.validation = "data/cc3m"
    config.model.name = "RN50"
    config.model.dtype = "auto"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.1
    config.train.global_batch_size = 1024
    config.train.epochs = EPOCHS
    config.evaluation.tasks = datacomp.tasks("data/datacomp_eval")
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return datacomp.study(
        "Which objective? CC3M, 30 epochs", "train.epochs", EPOCHS, EPOCHS * 2_900_000, (5e-4, 1e-3, 2e-3)
    )
