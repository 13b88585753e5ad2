"""RankCLIP in JAX: language-image pretraining with ranking consistency."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from rankclip_jax.evaluation.encoder import Encoder
    from rankclip_jax.objectives.ranking import consistency, listmle
    from rankclip_jax.training.hooks import Hook
    from rankclip_jax.training.loop import Outcome

__version__ = "0.1.0"
__all__ = ["consistency", "listmle", "load", "train"]


def __getattr__(name: str) -> Any:
    """Imports `consistency` and `listmle` on first access, since importing JAX takes a second."""
    if name in ("consistency", "listmle"):
        from rankclip_jax.objectives import ranking

        return getattr(ranking, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    path: str | Path,
    *,
    step: int | None = None,
    activation: str | None = None,
    dtype: str = "float32",
    weights: str = "latest",
) -> "Encoder":
    """Loads a trained or imported model, ready to encode images and texts.

    Args:
      path: a workdir, an output of `rankclip_jax.export`, a ``.safetensors`` or ``.pt`` file of open_clip, OpenAI or
        the RankCLIP release, or a Hugging Face CLIP folder.
      step: the checkpoint of a workdir; None: the newest.
      activation: ``"quick_gelu"`` or ``"gelu"``, for files that do not record it; None: quick_gelu for those.
      dtype: the dtype of the computation, ``"float32"`` or ``"bfloat16"``.
      weights: which weights of a workdir, ``"latest"`` or ``"ema"``.

    Raises:
      UserError: the file or folder is missing, corrupt, of an unknown format, or contains code.
      ValueError: `dtype` or `weights` is not supported.

    Example:
      >>> import numpy as np
      >>> import rankclip_jax
      >>> encoder = rankclip_jax.load("runs/demo")
      >>> images = encoder.encode_image([np.zeros((32, 32, 3), np.uint8)])
      >>> texts = encoder.encode_text(["a red circle", "a blue square"])
      >>> (images @ texts.T).shape
      (1, 2)
    """
    from rankclip_jax.evaluation.encoder import Encoder  # here, since importing JAX takes a second
    from rankclip_jax.input_pipeline.object_stores import path_of
    from rankclip_jax.interop import loading

    if weights not in ("latest", "ema") or dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"weights={weights!r}, dtype={dtype!r}: expected weights latest or ema, and dtype float32 or bfloat16"
        )
    loaded = loading.read(path_of(str(path)), step=step, activation=activation, weights=weights)
    return Encoder(loaded.model, loaded.variables, dtype)


def train(config: "ConfigDict", workdir: str | Path, hooks: "Sequence[Hook]" = ()) -> "Outcome":
    """Trains a recipe in ``workdir``, or resumes the run that it holds, as ``python -m rankclip_jax.train`` does.

    Args:
      config: the settings, from `rankclip_jax.recipes.base`.
      workdir: the run's folder.
      hooks: see `rankclip_jax.training.hooks.Hook`.

    Raises:
      UserError: the settings, the data or the workdir cannot be used.
    """
    from rankclip_jax.training import loop  # here, since importing JAX takes a second

    return loop.train(config, workdir, hooks)
