"""Trains a recipe, or goes on with the run that the workdir holds.

python -m rankclip_jax.train --config configs/demo.py [--workdir DIR] [--config.a.b=value ...]
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from input_pipeline.errors import UserError
from rankclip_jax import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; runs/<recipe's name> unless given")


def main() -> None:
    if _CONFIG.value is None:
        raise UserError("--config: not given. Name a recipe, such as --config configs/demo.py.")
    from rankclip_jax import trainer  # after the flags are read, since importing JAX takes a second

    _last_word_on_length(_CONFIG.value, config_flags.get_override_values(flags.FLAGS["config"]))
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    trainer.train(_CONFIG.value, Path(_WORKDIR.value or f"runs/{Path(recipe).stem}"))


def _last_word_on_length(config: ConfigDict, overrides: dict[str, object]) -> None:
    """A length given on the command line, in steps or epochs, replaces the recipe's whatever its unit."""
    given = {"train.steps", "train.epochs"} & overrides.keys()
    if given == {"train.steps"}:
        config.train.epochs = 0
    elif given == {"train.epochs"}:
        config.train.steps = 0


if __name__ == "__main__":
    command_line.run(main)
