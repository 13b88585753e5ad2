"""CC3M as RankCLIP's released code trains by default, to the letter where its letter can be run.

Defaults of its parser (github.com/Jam1ezhang/RankCLIP, rankclip/parser.py), which its README changes nothing of. Not
repeated are its mistakes: a learning rate that runs one epoch ahead and rises in the last, gradients that stop at other
devices,
truncated captions without their end, decayed norms. Its two lambdas are not among its options; both terms count once.
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """The base with what differs."""
    config = base()
    config.data.source = "csv"
    config.data.train = "data/CC3M/train/train.csv"  # where CyCLIP, on which the release builds, looks
    config.data.image_key, config.data.caption_key, config.data.delimiter = "image", "caption", ","
    config.data.crop = "center"  # one transform for training and evaluation: resize, centre crop

    config.model.name = "RN50"
    config.model.dtype = "float32"  # the towers run outside its autocast

    config.objective.name = "rankclip"
    config.objective.variant = "released"
    config.objective.ramp = (0.0, 2.0, 2 / 3)  # clip(3 (e - 1) / (E - 1), 0, 2)

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_share, config.optimizer.warmup_steps = 0.0, 10_000
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 0.1

    config.train.global_batch_size = 128  # over all devices: it divides --batch_size by their number
    config.train.epochs = 64
    return config
