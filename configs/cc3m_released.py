"""CC3M with the defaults of RankCLIP's released code: those of its parser, which its README does not change.

Source: github.com/Jam1ezhang/RankCLIP, rankclip/parser.py. The two lambdas are not options there; both terms have
weight 1. Two kinds of differences remain.

Bugs of the release that are not repeated:
- The learning rate runs one epoch ahead and rises in the last epoch.
- Gradients stop at other devices.
- Truncated captions have no end-of-text token.
- The norms of shortcuts get weight decay.

Details that differ without changing the method:
- The ranking weight and the length of the run follow steps; the release counts whole epochs.
- The log of the scale is clamped at log(100) = 4.605170; the release clamps it at 4.6052.
- With a ViT, the release also applies weight decay to the class embedding. To do the same, add
  --config.optimizer.decay_overrides="(('class_embedding', 0.1),)".
- The release converts images to RGB before it resizes them for evaluation. We resize in the image's own mode, as
  open_clip does. Palette images and images with transparency differ.
- With second views (--config.objective.second_view), the logged metric `contrastive` is the part between modalities,
  and `second_view` is the part within them. The release logs their mean.
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "csv"
    config.data.train = "data/CC3M/train/train.csv"  # the path of CyCLIP, on which the release builds
    config.data.image_key, config.data.caption_key, config.data.delimiter = "image", "caption", ","
    config.data.crop = "center"  # one transform for training and evaluation: resize, center crop

    config.model.name = "RN50"
    config.model.dtype = "float32"  # the towers run outside the release's autocast

    config.objective.name = "rankclip"
    config.objective.variant = "released"
    config.objective.ramp = (0.0, 2.0, 2 / 3)  # clip(3 (e - 1) / (E - 1), 0, 2)

    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_fraction, config.optimizer.warmup_steps = 0.0, 10_000
    config.optimizer.b1, config.optimizer.b2, config.optimizer.eps = 0.9, 0.999, 1e-8
    config.optimizer.weight_decay = 0.1

    config.train.global_batch_size = 128  # global: the release divides --batch_size by the number of devices
    config.train.epochs = 64
    return config
