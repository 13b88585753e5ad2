"""Settings of what a run logs, under ``config.logging``."""

import dataclasses

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import COUNT, COUNT_OR_ZERO, Choice, Each, Settings, setting


@dataclasses.dataclass(frozen=True)
class LoggingSettings(Settings):
    """Metrics, profiles and Weights & Biases."""

    section = "logging"

    every_steps: int = setting(50, "steps between two lines of metrics, which are means over them", COUNT, fixed=False)
    profile_steps: tuple[int, int] = setting(
        (0, 0),
        "trace from one step to another, for XProf; (0, 0): none",
        Each(COUNT_OR_ZERO, COUNT_OR_ZERO),
        fixed=False,
    )
    wandb: str = setting(
        "",
        "Weights & Biases: `online`, or `offline`, to be sent later with `wandb sync`",
        Choice(("", "offline", "online")),
        fixed=False,
    )

    def __post_init__(self) -> None:
        first, last = self.profile_steps
        if first > last or (last and not first):
            raise UserError(
                "config.logging.profile_steps: expected the first and the last step, from 1, or (0, 0) for none; "
                f"found {(first, last)}."
            )
