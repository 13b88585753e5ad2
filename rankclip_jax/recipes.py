"""The base settings that recipes start from, ``config = base()``, and built-in recipes, ``builtin("demo")``."""

from rankclip_jax.settings.recipe_files import run as builtin
from rankclip_jax.settings.schema import base

__all__ = ["base", "builtin"]
