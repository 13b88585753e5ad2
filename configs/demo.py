"""The demo: RankCLIP on synthetic scenes, about a minute on two CPU cores, no download."""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "scenes"
    config.data.crop = "center"  # scenes are drawn at the model's size, so this crop keeps them unchanged
    config.model.name = "ViT-demo"
    config.model.remat = "none"  # all activations fit into memory

    config.objective.name = "rankclip"

    # Tuned for the fastest training of a model this small.
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
