"""Trains a recipe, or resumes the run in the workdir.

python -m rankclip_jax.train --config configs/demo.py [--workdir DIR] [--dry_run] [--config.a.b=value ...]
"""

import shlex
import signal
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_config, given_recipe

define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default: runs/<recipe's name>")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "read data, run one step, write and read a checkpoint, then stop and keep nothing"
)

# Pairs of settings for one quantity in two units: an override of one resets the other.
_UNITS = (("train.steps", "train.epochs"), ("optimizer.warmup_steps", "optimizer.warmup_fraction"))


def main() -> None:
    """Trains; exits with 0 when finished, or with 128 + the signal number when stopped and saved."""
    recipe = given_recipe()
    config = recipe.config
    _reset_other_unit(config, recipe.overrides)
    default = f"runs/{recipe.path.stem}"
    workdir = (
        Path(default)
        if _WORKDIR.value is None
        else entry.path_flag(_WORKDIR, f"Omit the flag for the default, {default}.")
    )
    # Until the run handles signals, Ctrl-C ends the process: a KeyboardInterrupt inside a library may get lost.
    signal.signal(signal.SIGINT, lambda *_: entry.EXIT_ON_USER_ERROR.stop())
    entry.join_processes(config)
    from rankclip_jax.distributed.processes import is_primary_process
    from rankclip_jax.training.loop import train  # after the flags are read, since importing JAX takes a second

    outcome = train(config, workdir, dry_run=_DRY_RUN.value, started=entry.STARTED, recipe=recipe.path)
    if outcome.signal_number is not None:
        command = shlex.join(["python", "-m", "rankclip_jax.train", *sys.argv[1:]])
        stopped = f"Stopped and saved at step {outcome.step}" if outcome.step else "Stopped before anything was saved"
        if is_primary_process():
            print(f"\n{stopped}. Resume with the same command: {command}", flush=True)
        sys.exit(128 + outcome.signal_number)


def _reset_other_unit(config: ConfigDict, overrides: dict[str, object]) -> None:
    for pair in _UNITS:
        given = [name for name in pair if overrides.get(name)]
        if len(given) == 1:
            section, other = next(name for name in pair if name not in given).split(".")
            config[section][other] = type(config[section][other])(0)


if __name__ == "__main__":
    entry.run(main, keeps_freed_memory=True)
