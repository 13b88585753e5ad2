"""Says what a recipe takes on devices that are not here: its real training step is compiled for them.

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
_TOPOLOGY = flags.DEFINE_string("topology", None, "devices, such as h200:HOSTSxGPUS or v5e:16x16")
_MEMORY = flags.DEFINE_float(
    "memory", None, "GB of each device; its own unless given", lower_bound=0.1, upper_bound=1e5
)
_FIND = flags.DEFINE_enum("find", None, ["batch"], "the largest batch that fits")
_SWEEP = flags.DEFINE_bool("sweep", False, "compare meshes, rematerialisation and accumulation")
_PRICE = flags.DEFINE_float("price", None, "of a device for an hour: the least that a run costs", lower_bound=0)
_PAIRS = flags.DEFINE_integer("pairs", None, "of the data set, for the cost of config.train.epochs", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file to write the plan, or plans, to as well")
_PICTURE = flags.DEFINE_string("picture", None, "PNG file to draw the memory in")


def main() -> None:
    """Plans, prints, and exits with 0 if the step fits and 1 if not."""
    recipe = given_recipe()
    config = recipe.config
    if not _TOPOLOGY.value:
        raise UserError("--topology: not given. Name devices, such as --topology h200:1x8 or --topology v5e:16x16.")
    paths = {}
    for flag in (_JSON, _PICTURE):
        if flag.value is not None:
            paths[flag.name] = entry.local_path(flag, f"Name a file, such as --{flag.name} plan.{flag.name}")
            entry.check_can_be_written(flag.name, paths[flag.name])
    if _PRICE.value is not None and not (config.train.steps or (config.train.epochs and _PAIRS.value)):
        raise UserError("--price: the length of the run is not known. Use --pairs=N, the size of the data set, too.")
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
        found = [plan.to_dict() for plan in plans]
        write_atomically(paths["json"], json.dumps(found if _SWEEP.value else found[0], indent=2) + "\n")
    if "picture" in paths:
        from rankclip_jax.planning import formatting  # after the flags are read, as above

        formatting.draw(plans, paths["picture"])
    if not plans[0].fits:
        raise SystemExit(1)


if __name__ == "__main__":
    entry.run(main)
