"""The data of a run: opened, looked at, and the same on all processes."""

import zlib

from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.input_pipeline.loader import check_readable
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.run import settings


def open_data(config: ConfigDict) -> tuple[Source, Source | None]:
    """The training data and, where there are some, the validation data, a few of each looked at."""
    image_size = settings.image_size(config)
    source = input_pipeline.open_source(config.data, "train", image_size=image_size, seed=config.seed)
    check_readable(source, "config.data.train", config.data.max_pixels)
    if not input_pipeline.has_validation(config.data):
        return source, None
    validation = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    check_readable(validation, "config.data.validation", config.data.max_pixels)
    return source, validation


def what_all_share(config: ConfigDict, source: Source) -> dict[str, object]:
    """What every process of a run must have alike: settings, and data by their number and a few captions."""
    few = range(0, len(source), -(-len(source) // 8))
    told = zlib.crc32(repr([captions(source[index]) for index in few]).encode())
    values = dict(settings.flatten(settings.to_dict(config)))
    alike = {
        f"config.{name}": value
        for name, value in values.items()
        if not name.startswith(("data.threads", "data.workers"))
    }
    return {**alike, "training data": f"{len(source):,} records, captions {told:08x}"}
