"""CC3M as RankCLIP's released code trains by default: the defaults of its parser, which its README does not change.

Source: github.com/Jam1ezhang/RankCLIP, rankclip/parser.py. Its two lambdas are not among its options; both terms count
once. Two kinds of differences remain.

Mistakes of the release that are not repeated: a learning rate that runs one epoch ahead and rises in the last epoch,
gradients that stop at other devices, truncated captions without their end-of-text token, decayed norms of shortcuts.

Details that differ without changing the method:
- The ranking weight and the length of the run follow steps; the release counts whole epochs.
- The log of the scale is clamped at log(100) = 4.605170; the release clamps it at 4.6052.
- With a ViT the release decays the class embedding too. For that, add
  --config.optimizer.decay_overrides="(('class_embedding', 0.1),)".
- Its evaluation converts images to RGB before it resizes them, ours resizes in the image's own mode, as open_clip does:
  palette images and those with transparency differ.
- With second views (--config.objective.second_view) the logged metric `contrastive` is the part between modalities. The
  release logs the mean of that part and the part within modalities, which is `second_view` here.
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
    config.optimizer.warmup_fraction, config.optimizer.warmup_steps = 0.0, 10_000
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 0.1

    config.train.global_batch_size = 128  # over all devices: it divides --batch_size by their number
    config.train.epochs = 64
    return config
