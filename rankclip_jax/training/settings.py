"""Settings of a run's length, optimizer and learning rate: ``config``, ``config.train`` and ``config.optimizer``."""

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
    """Settings of a run's seed and initial weights."""

    seed: int = setting(0, "seed of initial weights, data order and tie breaking", Range(0, 2**31 - 1))
    init_from: str = setting(
        "", "initial weights: a run, an export, or weights of open_clip, OpenAI or Hugging Face; empty: random"
    )


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
    """Settings of the batch size, the length of the run, and the policy for non-finite steps."""

    section = "train"

    global_batch_size: int = setting(1024, "pairs per step, over all devices of all hosts", Range(2, LARGEST_BATCH))
    accumulation: int = setting(
        1,
        "micro-batches per batch in the encoders; the loss is that of the whole batch",
        Range(1, LARGEST_BATCH),
        fixed=False,
    )
    steps: int = setting(0, "length of the run in steps; 0: given in epochs", COUNT_OR_ZERO)
    epochs: int = setting(0, "length of the run in epochs; 0: given in steps", Range(0, 10**6))
    on_nonfinite: str = setting(
        "stop",
        "at a non-finite loss or gradient: `stop`, `skip` the update, or `rollback` to a checkpoint",
        Choice(("stop", "skip", "rollback")),
        fixed=False,
    )
    hooks: tuple[str, ...] = setting(
        (), "your own hooks, as package.module:Name of subclasses of Hook", Words(), fixed=False
    )
    max_nonfinite_steps: int = setting(
        10, "with skip or rollback: non-finite steps after which the run stops", COUNT, fixed=False
    )

    def __post_init__(self) -> None:
        if bool(self.steps) == bool(self.epochs):
            raise UserError(
                f"config.train: expected either steps or epochs; found steps={self.steps} and epochs={self.epochs}. "
                "Set one of them to 0, such as --config.train.epochs=0."
            )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(Settings):
    """Settings of the optimizer, its learning rate schedule, and its overrides by parameter."""

    section = "optimizer"

    name: str = setting("adamw", "`adamw`, `lion`, `adafactor` or `muon`", Choice(OPTIMIZERS))
    learning_rate: float = setting(5e-4, "the peak, reached at the end of the warmup", Range(0, 10, exclude_low=True))
    schedule: str = setting(
        "cosine", "after the warmup: `cosine`, `constant`, `warmup_stable_decay`", Choice(SCHEDULES)
    )
    warmup_fraction: float = setting(0.02, "warmup as a fraction of the run; 0: given in steps", FRACTION_BELOW_1)
    warmup_steps: int = setting(0, "warmup in steps; 0: given as a fraction", COUNT_OR_ZERO)
    final_fraction: float = setting(
        0.0, "learning rate at the end of a cosine or a decay, as a fraction of the peak", FRACTION
    )
    decay_fraction: float = setting(0.2, "warmup_stable_decay: length of the decay, as a fraction of the run", FRACTION)
    b1: float = setting(0.9, "decay of the first moment", FRACTION_BELOW_1)
    b2: float = setting(0.98, "decay of the second moment", FRACTION_BELOW_1)
    eps: float = setting(1e-6, "added to the square root of the second moment", Range(0, 1, exclude_low=True))
    weight_decay: float = setting(
        0.2, "decoupled weight decay; none for biases, norms, the class embedding and scalars", Range(0, 10)
    )
    gradient_clip: float = setting(0.0, "largest global norm of the gradients; 0: no clipping", Range(0, 1e6))
    frozen: tuple[str, ...] = setting(
        (), "parameters that are not trained: patterns found in their names, such as ('^vision/',)", Patterns()
    )
    lora: tuple = setting(
        (),
        "LoRA: (pattern, rank) pairs of kernels, such as (('attention_(in|out)/kernel', 8),)",
        PatternPairs(Range(1, 4096), whole=True),
    )
    rate_overrides: tuple = setting(
        (),
        "learning rate factors: (pattern, factor) pairs, such as (('^vision/.*blocks/[0-5]/', 0.1),)",
        PatternPairs(WEIGHT),
    )
    decay_overrides: tuple = setting(
        (), "weight decay overrides: (pattern, weight decay) pairs", PatternPairs(Range(0, 10))
    )
    mu_dtype: str = setting(
        "float32", "dtype of first moments; `bfloat16` halves their memory", Choice(("float32", "bfloat16"))
    )
    ema_decay: float = setting(0.0, "decay of an EMA of the weights, such as 0.999; 0: no EMA", FRACTION_BELOW_1)
