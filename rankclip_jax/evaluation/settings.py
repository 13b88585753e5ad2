"""Settings of evaluations, under ``config.evaluation``."""

import dataclasses
from typing import Any

from rankclip_jax.input_pipeline.setting import COUNT_OR_ZERO, Choice, Range, Settings, setting

WEIGHTS = ("latest", "ema")


@dataclasses.dataclass(frozen=True)
class EvaluationSettings(Settings):
    """Settings of when a run is evaluated, on which data, and with which weights."""

    section = "evaluation"

    tasks: Any = setting(
        {},
        'tasks on other data, by name: `{"dtd": {"task": "zero_shot", "path": "data/dtd", "every_steps": 5000}}`',
        fixed=False,
    )
    every_steps: int = setting(0, "interval of evaluations in steps; 0: only at the end", COUNT_OR_ZERO, fixed=False)
    max_examples: int = setting(
        10_000,
        "the most validation pairs that are used; also the number of retrieval candidates",
        Range(1, 10**7),
        fixed=False,
    )
    weights: str = setting(
        "latest", "weights: `latest`, or `ema` (needs config.optimizer.ema_decay)", Choice(WEIGHTS), fixed=False
    )
