"""RankCLIP in JAX: language-image pretraining with ranking consistency."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rankclip_jax.encoder import Encoder

__version__ = "0.1.0"


def load(
    path: str | Path, *, step: int | None = None, activation: str | None = None, dtype: str = "float32"
) -> "Encoder":
    """A trained or imported model, ready to encode images and texts.

    Args:
      path: a workdir, what `rankclip_jax.export` wrote, a ``.safetensors`` or ``.pt`` file of open_clip, OpenAI or the
        RankCLIP release, or a Hugging Face CLIP folder.
      step: the checkpoint of a workdir; None: the newest.
      activation: ``"quick_gelu"`` or ``"gelu"``, for files that do not say; None: quick_gelu for those.
      dtype: type of the computation, ``"float32"`` or ``"bfloat16"``.

    Raises:
      UserError: there is nothing of the kind, or it is damaged, unknown or holds code.
    """
    from rankclip_jax.encoder import Encoder  # here, since importing JAX takes a second
    from rankclip_jax.interop import loading

    weights = loading.read(Path(path), step=step, activation=activation)
    return Encoder(weights.model, weights.variables, dtype)
