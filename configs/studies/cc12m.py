"""The study of objectives on CC12M with ViT-B/32, batches of 2,048 and 33 epochs, as FastCLIP reports it.

python -m rankclip_jax.study --config configs/studies/cc12m.py --workdir runs/cc12m_study
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base
from rankclip_jax.studies import datacomp
from rankclip_jax.studies.definition import Study

EPOCHS = 33


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "array_record"
    config.data.train = "data/cc12m"  # docs/data.md has the download
    config.data.validation = "data/cc12m"
    config.model.name = "ViT-B-32"
    config.model.dtype = "auto"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.1
    config.train.global_batch_size = 2048
    config.train.epochs = EPOCHS
    config.evaluation.tasks = datacomp.tasks("data/datacomp_eval")
    return config


def get_study() -> Study:
    """Returns the arms, how they are tuned, and what is reported."""
    return datacomp.study(
        "Which objective? CC12M, 33 epochs", "train.epochs", EPOCHS, EPOCHS * 9_000_000, (2.5e-4, 5e-4, 1e-3)
    )
