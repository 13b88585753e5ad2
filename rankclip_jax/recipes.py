"""The base settings that every recipe starts from: ``config = base()``."""

from rankclip_jax.settings.schema import base

__all__ = ["base"]
