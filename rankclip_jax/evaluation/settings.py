"""Settings of evaluations, under ``config.evaluation``."""

import dataclasses
from typing import Any

from rankclip_jax.input_pipeline.setting import COUNT_OR_ZERO, Choice, Range, Settings, setting

WEIGHTS = ("latest", "ema")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
    """When a run is evaluated, and with which weights."""

    section = "evaluation"

    tasks: Any = setting(
        {},
        'on other data, by name: `{"dtd": {"task": "zero_shot", "path": "data/dtd", "every_steps": 5000}}`',
        fixed=False,
    )
    every_steps: int = setting(0, "during training; 0: only at the end", COUNT_OR_ZERO, fixed=False)
    max_examples: int = setting(
        10_000, "of the validation data; retrieval is reported over these", Range(1, 10**7), fixed=False
    )
    weights: str = setting(
        "latest", "`latest`, or `ema`: the average that config.optimizer.ema_decay keeps", Choice(WEIGHTS), fixed=False
    )
