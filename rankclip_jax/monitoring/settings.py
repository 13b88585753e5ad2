"""Settings of a run's logs, under ``config.logging``."""

import dataclasses

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import COUNT, COUNT_OR_ZERO, Choice, Each, Settings, setting


@dataclasses.dataclass(frozen=True)
class LoggingSettings(Settings):
    """Settings of metrics, profiles and Weights & Biases."""

    section = "logging"

    every_steps: int = setting(
        50, "interval of logged metrics in steps, over which they are averaged", COUNT, fixed=False
    )
    profile_steps: tuple[int, int] = setting(
        (0, 0),
        "first and last step of a profile for XProf; (0, 0): no profile",
        Each(COUNT_OR_ZERO, COUNT_OR_ZERO),
        fixed=False,
    )
    wandb: str = setting(
        "",
        "Weights & Biases: `online`, or `offline` for a later `wandb sync`; empty: off",
        Choice(("", "offline", "online")),
        fixed=False,
    )

    def __post_init__(self) -> None:
        first, last = self.profile_steps
        if first > last or (last and not first):
            raise UserError(
                "config.logging.profile_steps: expected the first and the last step, from 1, or (0, 0) for none; "
                f'found {(first, last)}. Use for example --config.logging.profile_steps="(10, 15)".'
            )
