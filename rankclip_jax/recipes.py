"""What a recipe begins with: ``config = base()``."""

from rankclip_jax.settings.schema import base

__all__ = ["base"]
