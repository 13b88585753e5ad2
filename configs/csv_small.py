"""Your own images on a laptop, or a small dataset: like configs/csv.py, with a model that two CPU cores can train.

python -m rankclip_jax.train --config csv_small --config.data.train=train.csv \
    --config.data.validation=validation.csv --config.data.image_key=filepath \
    --config.data.caption_key=title
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "csv"
    config.model.name = "ViT-demo"
    config.model.image_size = 64
    config.model.remat = "none"  # all activations fit into memory
    config.optimizer.learning_rate = 7e-4  # for the demo's model
    config.optimizer.warmup_fraction = 0.05
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip = 1.0
    config.train.global_batch_size = 32
    config.train.epochs = 30
    config.logging.every_steps = 10
    config.checkpoint.every_steps = 100
    return config
