"""A training of seconds as a command of its own, which notes which records each of its steps has seen.

python -m tests.soak.tiny train --config tests/soak/recipe.py --workdir DIR

It is the product's command, with a preset added that compiles in seconds. ``SOAK_RECORDS`` names the file of the notes.
"""

import os
import runpy
import sys
from pathlib import Path

from rankclip_jax.models.presets import PRESETS
from rankclip_jax.training import batches
from tests.training.conftest import TINY


def main() -> None:
    PRESETS["tiny"] = TINY
    noted, real = Path(os.environ["SOAK_RECORDS"]), batches.training_batches

    def training_batches(*arguments, start_step, **settings):
        with noted.open("a") as file:
            for step, batch in enumerate(real(*arguments, start_step=start_step, **settings), start_step + 1):
                print(step, *batch["sample"], file=file, flush=True)
                yield batch

    batches.training_batches = training_batches
    command = sys.argv.pop(1)
    runpy.run_module(f"rankclip_jax.{command}", run_name="__main__")


if __name__ == "__main__":
    main()
