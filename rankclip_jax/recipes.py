"""The base settings that every recipe starts from, ``config = base()``, and the built-in recipes, ``builtin("demo")``."""

from rankclip_jax.settings.recipe_files import run as builtin
from rankclip_jax.settings.schema import base

__all__ = ["base", "builtin"]
