"""Your own images: a CSV or TSV file with a column of image paths and a column of captions.

python -m rankclip_jax.train --config csv --config.data.train=train.csv \
    --config.data.validation=validation.csv --config.data.image_key=filepath \
    --config.data.caption_key=title

Relative image paths start at the folder of the CSV file. This recipe is for a GPU and ten thousand pairs or more;
configs/csv_small.py is for a laptop or fewer pairs.
"""

from ml_collections import ConfigDict

from rankclip_jax.recipes import base


def get_config() -> ConfigDict:
    """Returns the base settings with the changes of this recipe."""
    config = base()
    config.data.source = "csv"
    config.model.dtype = "auto"  # bfloat16 on GPUs and TPUs, for their matrix units; float32 on CPUs
    config.optimizer.warmup_fraction = 0.05  # your own data is usually small compared with CC3M
    config.train.global_batch_size = 256
    config.train.epochs = 30
    return config
