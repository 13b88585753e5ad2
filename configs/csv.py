"""Your own images: a CSV or TSV file with a column of image paths and a column of captions.

python -m rankclip_jax.train --config configs/csv.py --config.data.train=train.csv \
    --config.data.validation=validation.csv --config.data.image_key=filepath \
    --config.data.caption_key=title --config.data.delimiter=,

Relative paths are looked up beside the CSV file, the format of the RankCLIP release.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.source = "csv"
    config.train.global_batch_size = 256  # fits one 24 GB GPU with ViT-B-32
    config.train.epochs = 30
    config.optimizer.warmup_steps = 500  # short, since one's own data is small beside CC3M
    return config
