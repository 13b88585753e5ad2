"""The setting that selects the training objective; each objective declares its options in its own file."""

import dataclasses

from rankclip_jax.input_pipeline.setting import Settings, setting


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings(Settings):
    """The setting that selects the training objective."""

    section = "objective"

    name: str = setting(
        "rankclip", "`rankclip`, `clip`, `siglip`, `cyclip`, `softclip`, `self_distillation`, `ranking`"
    )
