"""Predicts memory and time of a recipe on other devices, by compiling its training step for them.

python -m rankclip_jax.plan --config F --topology h200:1x8|v5e:16x16 [--config.a.b=value ...] [--json F] [--picture F]
    [--memory GB] [--find batch] [--sweep] [--price D] [--pairs N]
"""

import json
import os

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_config, given_recipe
from rankclip_jax.distributed import platform
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import write_atomically

define_config()
_TOPOLOGY = flags.DEFINE_string("topology", None, "devices to compile for, such as h200:HOSTSxGPUS or v5e:16x16")
_MEMORY = flags.DEFINE_float(
    "memory", None, "memory per device in GB; default: that of the device", lower_bound=0.1, upper_bound=1e5
)
_FIND = flags.DEFINE_enum("find", None, ["batch"], "find the largest batch that fits")
_SWEEP = flags.DEFINE_bool("sweep", False, "compare meshes, rematerialization and gradient accumulation")
_PRICE = flags.DEFINE_float("price", None, "price per device-hour, to compute the minimum cost of a run", lower_bound=0)
_PAIRS = flags.DEFINE_integer(
    "pairs", None, "pairs in the dataset, to compute the cost of config.train.epochs", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "file to write the plan or plans to, besides printing them")
_PICTURE = flags.DEFINE_string("picture", None, "PNG file for a figure of the memory use")


def main() -> None:
    """Prints the plan; exits with 0 if the step fits in memory and with 1 if not."""
    recipe = given_recipe()
    config = recipe.config
    if not _TOPOLOGY.value:
        raise UserError(
            "--topology: not given. Use the devices to plan for, such as --topology h200:1x8 or --topology v5e:16x16."
        )
    paths = {}
    for flag in (_JSON, _PICTURE):
        if flag.value is not None:
            paths[flag.name] = entry.local_path(flag, f"Use a file, such as --{flag.name} plan.{flag.name}.")
            entry.check_can_be_written(flag.name, paths[flag.name])
    if _PRICE.value is not None and not (config.train.steps or (config.train.epochs and _PAIRS.value)):
        raise UserError("--price: the length of the run is unknown. Add --pairs=N, the number of pairs in the dataset.")
    platform.set_variables_to_plan()
    from rankclip_jax.planning import command  # after the flags are read, since importing JAX takes a second
    from rankclip_jax.training.step import trace_step

    plans = command.run(
        config,
        os.path.relpath(recipe.path),
        _TOPOLOGY.value,
        trace_step,
        memory=int(_MEMORY.value * 1e9) if _MEMORY.value else None,
        find=bool(_FIND.value),
        sweep=_SWEEP.value,
        price=_PRICE.value,
        pairs=_PAIRS.value,
    )
    if "json" in paths:
        records = [plan.to_dict() for plan in plans]
        write_atomically(paths["json"], json.dumps(records if _SWEEP.value else records[0], indent=2) + "\n")
    if "picture" in paths:
        from rankclip_jax.planning import formatting  # after the flags are read, as above

        formatting.draw(plans, paths["picture"])
    if not plans[0].fits:
        raise SystemExit(1)


if __name__ == "__main__":
    entry.run(main)
