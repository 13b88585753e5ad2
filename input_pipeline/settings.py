"""The settings of the data, under ``config.data``; each source and `augmentation` add more."""

import dataclasses

from .images import MOST_PIXELS
from .setting import FRACTION, MANY, Numbers, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings):
    """Which data to read, and with how many threads and processes."""

    section = "data"

    source: str = setting(
        "scenes", "built-in `scenes`, image files (`csv`), prepared shards (`array_record`), or `package.module:Name`"
    )
    train: str = setting("", "path of the training data, or several separated by commas (~ is the home folder)")
    weights: tuple[float, ...] = setting(
        (), "sampling weight of each of several datasets; empty: their sizes", Numbers(Range(0, MANY, exclude_low=True))
    )
    validation: str = setting("", "path of the validation data; empty: none (prepared data: their validation split)")
    threads: int = setting(
        4, "decoding threads per worker, or in the main process without workers", Range(1, 256), fixed=False
    )
    workers: int = setting(
        -1,
        "decoding processes; 0: threads of the main process only; -1: all cores but two",
        Range(-1, 256),
        fixed=False,
    )
    max_pixels: int = setting(
        2**26, "larger images count as unreadable and are not decoded; WebP and AVIF count twice", Range(1, MOST_PIXELS)
    )
    max_unreadable_fraction: float = setting(
        0.01, "stop when more than this fraction of the records cannot be read", FRACTION, fixed=False
    )
