"""Settings of the data, under ``config.data``; each source adds its own, and `augmentation` those of training views."""

import dataclasses

from .images import MOST_PIXELS
from .setting import FRACTION, MANY, Numbers, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings):
    """What is read, and by how many threads and processes."""

    section = "data"

    source: str = setting(
        "scenes", "built-in `scenes`, image files (`csv`), prepared shards (`array_record`), or yours"
    )
    train: str = setting("", "path of the training data, or several with commas between (~ is the home folder)")
    weights: tuple[float, ...] = setting(
        (), "how often to draw from each of several; empty: by their sizes", Numbers(Range(0, MANY, exclude_low=True))
    )
    validation: str = setting("", "path of the validation data; empty: none (prepared data: their validation split)")
    threads: int = setting(4, "decoding threads of each worker, or of the main process", Range(1, 256), fixed=False)
    workers: int = setting(
        -1,
        "decoding processes; 0: threads of the main process only; -1: all cores but two",
        Range(-1, 256),
        fixed=False,
    )
    max_pixels: int = setting(
        2**26, "an image of more is unreadable, before it is decoded; WebP and AVIF count twice", Range(1, MOST_PIXELS)
    )
    max_unreadable_fraction: float = setting(
        0.01, "stop when more than this fraction of the records cannot be read", FRACTION, fixed=False
    )
