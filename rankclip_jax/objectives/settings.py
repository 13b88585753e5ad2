"""The choice of the training objective; each has settings of its own in its file."""

import dataclasses

from rankclip_jax.input_pipeline.setting import Settings, setting


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """Which objective is trained with."""

    section = "objective"

    name: str = setting(
        "rankclip", "`rankclip`, `clip`, `siglip`, `cyclip`, `softclip`, `self_distillation`, `ranking`"
    )
