"""Settings of a run's length, optimiser and learning rate: ``config``, ``config.train`` and ``config.optimizer``."""

import dataclasses

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import (
    COUNT,
    COUNT_OR_ZERO,
    FRACTION,
    FRACTION_BELOW_1,
    WEIGHT,
    Choice,
    PatternPairs,
    Patterns,
    Range,
    Settings,
    Words,
    setting,
)
from rankclip_jax.training.optimizer import OPTIMIZERS
from rankclip_jax.training.schedule import SCHEDULES

LARGEST_BATCH = 2**20


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """What a run starts from."""

    seed: int = setting(0, "initial weights, data order and tie breaking follow from it", Range(0, 2**31 - 1))
    init_from: str = setting(
        "", "weights to start from: a run, an export, or a file of open_clip, OpenAI, Hugging Face"
    )


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
    """The batch, the length, and what happens to steps that are not finite."""

    section = "train"

    global_batch_size: int = setting(1024, "pairs per step, over all devices of all hosts", Range(2, LARGEST_BATCH))
    accumulation: int = setting(
        1,
        "micro-batches that the encoders take a batch in; the loss stays the whole batch's",
        Range(1, LARGEST_BATCH),
        fixed=False,
    )
    steps: int = setting(0, "length of the run: give either steps", COUNT_OR_ZERO)
    epochs: int = setting(0, "or epochs, and leave the other 0", Range(0, 10**6))
    on_nonfinite: str = setting(
        "stop",
        "at a loss or gradient that is not finite: `stop`, `skip` the update, or `rollback` to a checkpoint",
        Choice(("stop", "skip", "rollback")),
        fixed=False,
    )
    hooks: tuple[str, ...] = setting(
        (), "your own, called beside each step: package.module:Name of subclasses of Hook", Words(), fixed=False
    )
    max_nonfinite_steps: int = setting(10, "skip, rollback: stop after so many such steps", COUNT, fixed=False)

    def __post_init__(self) -> None:
        if bool(self.steps) == bool(self.epochs):
            raise UserError(
                f"config.train: expected either steps or epochs; found steps={self.steps} and epochs={self.epochs}. "
                "Set the one that is not meant to 0, such as --config.train.epochs=0."
            )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(Settings):
    """The optimiser, its learning rate over the run, and what it does to which parameters."""

    section = "optimizer"

    name: str = setting("adamw", "`adamw`, `lion`, `adafactor` or `muon`", Choice(OPTIMIZERS))
    learning_rate: float = setting(5e-4, "the peak, reached at the end of the warmup", Range(0, 10, exclude_low=True))
    schedule: str = setting(
        "cosine", "after the warmup: `cosine`, `constant`, `warmup_stable_decay`", Choice(SCHEDULES)
    )
    warmup_fraction: float = setting(0.02, "of the run: give either a fraction", FRACTION_BELOW_1)
    warmup_steps: int = setting(0, "or steps, and leave the other 0", COUNT_OR_ZERO)
    final_fraction: float = setting(0.0, "of the peak, at the end of a cosine or a decay", FRACTION)
    decay_fraction: float = setting(0.2, "warmup_stable_decay: of the run, over which the rate falls", FRACTION)
    b1: float = setting(0.9, "decay of the first moment", FRACTION_BELOW_1)
    b2: float = setting(0.98, "decay of the second moment", FRACTION_BELOW_1)
    eps: float = setting(1e-6, "added to the root of the second moment", Range(0, 1, exclude_low=True))
    weight_decay: float = setting(
        0.2, "decoupled; not on biases, norms, the class embedding and the logit scale", Range(0, 10)
    )
    gradient_clip: float = setting(0.0, "largest global norm of the gradients; 0: no clipping", Range(0, 1e6))
    frozen: tuple[str, ...] = setting(
        (), "patterns of parameters that are not trained, such as ('vision/.*',)", Patterns()
    )
    lora: tuple = setting(
        (),
        "low-rank adaptation: (pattern, rank) pairs of kernels, such as (('attention_(in|out)/kernel', 8),)",
        PatternPairs(Range(1, 4096), whole=True),
    )
    rate_overrides: tuple = setting(
        (), "(pattern, factor) pairs, such as (('vision/.*blocks/[0-5]/', 0.1),)", PatternPairs(WEIGHT)
    )
    decay_overrides: tuple = setting(
        (), "(pattern, weight decay) pairs, of parameters' names", PatternPairs(Range(0, 10))
    )
    mu_dtype: str = setting(
        "float32", "type of first moments; `bfloat16` halves their memory", Choice(("float32", "bfloat16"))
    )
    ema_decay: float = setting(
        0.0, "keep a moving average of the weights with this decay, such as 0.999; 0: none", FRACTION_BELOW_1
    )
