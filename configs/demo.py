"""The demo: RankCLIP on scenes drawn on the fly, minutes on two CPU cores, no download."""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """The base with what differs."""
    config = base()
    config.data.source = "scenes"
    config.data.crop = "center"  # scenes are drawn in the model's size, and stay as they are
    config.model.name = "ViT-demo"
    config.model.remat = "none"  # there is room for all of it

    config.objective.name = "rankclip"

    # Found by trying: what a model this small learns fastest with.
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_fraction = 1 / 12  # 20 of 240 steps
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0

    config.train.global_batch_size = 128
    config.train.steps = 240  # 30,720 pairs, about a minute on two cores

    config.checkpoint.every_steps = 80
    config.logging.every_steps = 25
    config.evaluation.every_steps = 80
    return config
