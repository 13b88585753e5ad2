"""What every number among the settings can be: one table, checked before anything is read or written."""

import dataclasses
import math
from collections.abc import Mapping

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.images import MOST_PIXELS

LARGEST_BATCH = 2**20
_MANY = 10**9  # more steps, records or files than anybody has
_HEAVY = 1000.0  # a weight beyond this is a slip


@dataclasses.dataclass(frozen=True)
class Range:
    """A closed interval of finite numbers, open at its lower or upper end where it says so."""

    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number is inside; not a number never is."""
        above = value > self.low if self.without_low else value >= self.low
        return above and (value < self.high if self.without_high else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.without_low else f"at least {self.low:g}"
        return f"{low} and {'below' if self.without_high else 'at most'} {self.high:g}"


_SHARE = Range(0, 1)
_SHARE_BELOW_1 = Range(0, 1, without_high=True)
_WEIGHT = Range(0, _HEAVY)
_COUNT = Range(1, _MANY)
_COUNT_OR_NONE = Range(0, _MANY)

# A setting that is a tuple of fixed length has a range for each place.
RANGES: dict[str, Range | tuple[Range, ...]] = {
    "seed": Range(0, 2**31 - 1),
    "data.train_examples": _COUNT,
    "data.validation_examples": _COUNT_OR_NONE,
    "data.crop_scale": (Range(0, 1, without_low=True),) * 2,
    "data.flip": _SHARE,
    "data.color_jitter": (_SHARE, _SHARE, _SHARE, Range(0, 0.5)),
    "data.threads": Range(1, 256),
    "data.workers": Range(-1, 256),
    "data.max_pixels": Range(1, MOST_PIXELS),
    "data.max_unreadable_fraction": _SHARE,
    "model.image_size": Range(0, 2048),
    "model.pixel_mean": (_SHARE,) * 3,
    "model.pixel_std": (Range(0, 1, without_low=True),) * 3,
    "model.patch_dropout": _SHARE_BELOW_1,
    "model.initial_logit_scale": Range(1, 100),
    "objective.lambda_cross": _WEIGHT,
    "objective.lambda_in": _WEIGHT,
    "objective.list_size": Range(0, LARGEST_BATCH),
    "objective.chunk_size": Range(0, LARGEST_BATCH),
    "objective.cyclic": (_WEIGHT,) * 2,
    "objective.soft_fraction": _SHARE,
    "objective.relation_weight": _WEIGHT,
    "objective.distillation_ramp": (_SHARE,) * 3,
    "objective.ramp": (_WEIGHT, _WEIGHT, _SHARE),
    "optimizer.learning_rate": Range(0, 10, without_low=True),
    "optimizer.warmup_fraction": _SHARE_BELOW_1,
    "optimizer.warmup_steps": _COUNT_OR_NONE,
    "optimizer.final_fraction": _SHARE,
    "optimizer.decay_fraction": _SHARE,
    "optimizer.b1": _SHARE_BELOW_1,
    "optimizer.b2": _SHARE_BELOW_1,
    "optimizer.eps": Range(0, 1, without_low=True),
    "optimizer.weight_decay": Range(0, 10),
    "optimizer.gradient_clip": Range(0, 1e6),
    "optimizer.ema_decay": _SHARE_BELOW_1,
    "train.global_batch_size": Range(2, LARGEST_BATCH),
    "train.steps": _COUNT_OR_NONE,
    "train.epochs": Range(0, 10**6),
    "train.accumulation": Range(1, LARGEST_BATCH),
    "mesh.replica": _COUNT,
    "mesh.data": Range(-1, _MANY),
    "mesh.fsdp": _COUNT,
    "processes.start_seconds": Range(1, 86_400),
    "processes.heartbeat_seconds": Range(1, 86_400),
    "processes.hang_seconds": Range(0, 1e6),
    "train.max_nonfinite_steps": _COUNT,
    "checkpoint.every_steps": _COUNT,
    "checkpoint.every_minutes": Range(0, 1e5),
    "checkpoint.patience_seconds": Range(0, 1e5),
    "checkpoint.deadline_seconds": Range(1, 1e5),
    "checkpoint.max_save_failures": _COUNT,
    "checkpoint.keep": Range(1, 10**6),
    "checkpoint.keep_every_steps": _COUNT_OR_NONE,
    "logging.every_steps": _COUNT,
    "logging.profile_steps": (_COUNT_OR_NONE,) * 2,
    "evaluation.every_steps": _COUNT_OR_NONE,
    "evaluation.max_examples": Range(1, 10**7),
}

# Tuples of any length: the range of each number in them. Pairs have a pattern before it.
LISTS = {"data.weights": Range(0, _MANY, without_low=True)}
PAIRS = {
    "optimizer.rate_overrides": Range(0, _HEAVY),
    "optimizer.decay_overrides": Range(0, 10),
    "mesh.overrides": Range(-1, 8),
}


def check(values: Mapping[str, object]) -> None:
    """Raises UserError for a number outside its range; ``values`` are settings by dotted names."""
    for name, allowed in RANGES.items():
        value = values[name]
        if isinstance(allowed, Range):
            _check_number(f"config.{name}", value, allowed)
            continue
        if not isinstance(value, tuple | list) or len(value) != len(allowed):
            raise UserError(f"config.{name}: expected {len(allowed)} numbers; found {value!r}.")
        for place, (number, one) in enumerate(zip(value, allowed, strict=True), 1):
            _check_number(f"config.{name}, number {place}", number, one)
    for name, one in LISTS.items():
        for number in _sequence(name, values[name]):
            _check_number(f"config.{name}", number, one)
    for name, one in PAIRS.items():
        for pair in _sequence(name, values[name]):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f"config.{name}: expected pairs of a pattern and a number; found {pair!r}.")
            _check_number(f"config.{name}, {pair[0]!r}", pair[1], one)


def _sequence(name: str, value: object) -> tuple | list:
    if not isinstance(value, tuple | list):
        raise UserError(f"config.{name}: expected a tuple, such as (1.0,); found {value!r}.")
    return value


def _check_number(flag: str, value: object, allowed: Range) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not allowed.holds(value):
        raise UserError(f"{flag}: expected a number, {allowed}; found {value!r}.")
