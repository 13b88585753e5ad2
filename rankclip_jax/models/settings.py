"""Settings of the model, under ``config.model``."""

import dataclasses
from typing import Any

from rankclip_jax.input_pipeline.setting import (
    FRACTION,
    Choice,
    Each,
    Optional,
    Range,
    Settings,
    setting,
)
from rankclip_jax.models import attention, remat
from rankclip_jax.models.activations import ACTIVATIONS
from rankclip_jax.models.clip import PIXEL_MEAN, PIXEL_STD


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """Settings that select the encoders and how they are computed."""

    section = "model"

    name: str = setting("ViT-B-32", "a preset (rankclip_jax/models/presets.py), or an open_clip JSON file")
    vision: Any = setting({}, "the image encoder: its family and sizes; defaults are the preset's")
    text: Any = setting({}, "the text encoder, likewise")
    embedding_size: int = setting(0, "size of both encoders' embeddings; 0: the preset's", Range(0, 2**16))
    image_size: int = setting(0, "side of the images in pixels; 0: the preset's", Range(0, 2048), fixed=False)
    context_length: int = setting(0, "sequence length of a text; 0: the preset's", Range(0, 2**14), fixed=False)
    tokenizer: str = setting("clip", "tokenizer of the texts: `clip`, or your own")
    pixel_mean: tuple[float, float, float] = setting(
        PIXEL_MEAN,
        "mean of red, green and blue in [0, 1]; default: CLIP's (SigLIP: 0.5 each)",
        Each(FRACTION, FRACTION, FRACTION),
    )
    pixel_std: tuple[float, float, float] = setting(
        PIXEL_STD,
        "standard deviation of red, green and blue, likewise",
        Each(*[Range(0, 1, exclude_low=True)] * 3),
    )
    activation: str = setting("", "`quick_gelu`, CLIP's, or `gelu`; empty: the preset's", Choice(("", *ACTIVATIONS)))
    initial_logit_scale: float = setting(1 / 0.07, "initial multiplier of similarities (siglip: 10)", Range(1, 100))
    dtype: str = setting(
        "float32",
        "compute type: `float32`, `bfloat16`, or `auto`: the faster of both on the device",
        Choice(("auto", "float32", "bfloat16")),
    )
    remat: str = setting(
        "cheap",
        "what the backward pass recomputes: `cheap`, all but products with weights; `blocks`, everything; or `none`",
        Choice(remat.CHOICES),
        fixed=False,
    )
    attention: str = setting(
        "auto",
        "`auto`: cuDNN's flash attention where supported and sequences are long; `cudnn`, `xla`",
        Choice(attention.IMPLEMENTATIONS),
        fixed=False,
    )
    scan_layers: bool | None = setting(
        None,
        "compile one layer and scan over the stack; None: on TPUs, and on GPUs from 13 layers",
        Optional(bool),
        fixed=False,
    )
