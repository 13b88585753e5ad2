"""One tower for both modalities: the image encoder's module, with the same parameters, encodes texts too."""

import dataclasses

from rankclip_jax.models.encoder import TextConfig
from rankclip_jax.models.execution import Execution


@dataclasses.dataclass(frozen=True)
class SharedTextConfig(TextConfig):
    """Texts are encoded by an image encoder that declares ``encodes_text``."""

    def module(self, embedding_size: int, execution: Execution) -> None:
        """Returns None: there is no second module."""
        del embedding_size, execution
