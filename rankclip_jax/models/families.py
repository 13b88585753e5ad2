"""The registries of encoder families; each family is one file."""

from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.models.encoder import TextConfig, VisionConfig
from rankclip_jax.models.resnet import ResNetConfig
from rankclip_jax.models.shared_text import SharedTextConfig
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig

VISION_ENCODERS: Registry[VisionConfig] = Registry(
    "model.vision.family", VisionConfig, {"vit": VisionTransformerConfig, "resnet": ResNetConfig}
)
TEXT_ENCODERS: Registry[TextConfig] = Registry(
    "model.text.family", TextConfig, {"transformer": TextTransformerConfig, "shared": SharedTextConfig}
)
