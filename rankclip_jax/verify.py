"""Verifies each checkpoint of a run: whether its files are, bit for bit, as saved.

python -m rankclip_jax.verify --workdir DIR [--step N]
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "verify only the checkpoint of this step", lower_bound=0)


def main() -> None:
    """Prints a line per checkpoint; exits with 0 if all are intact and with 1 if not."""
    workdir = entry.path_flag(_WORKDIR, "Use the folder of a run, such as --workdir runs/demo.")
    from rankclip_jax.checkpoints.manager import (  # after the flags, since importing JAX takes long
        describe_checkpoint,
        faults_of,
        faults_of_name,
    )
    from rankclip_jax.checkpoints.workdir import misnamed, read_config, saved_steps

    read_config(workdir)
    steps, misnamed_folders = saved_steps(workdir), misnamed(workdir)
    if not steps and not misnamed_folders:
        raise UserError(f"--workdir: {workdir} has no checkpoint yet.")
    if _STEP.value is not None and _STEP.value not in steps:
        raise UserError(f"--step: no checkpoint of step {_STEP.value} in {workdir}; choose from {steps}.")
    corrupt = 0
    for step in steps if _STEP.value is None else [_STEP.value]:
        faults = faults_of(workdir, step)
        corrupt += bool(faults)
        print(printable(f"step {step}: {'CORRUPT' if faults else describe_checkpoint(workdir, step)}"))
        for fault in faults:
            print(f"  {printable(fault)}")
    for name in misnamed_folders if _STEP.value is None else []:
        corrupt += 1
        print(f"{printable(name)}: not a checkpoint")
        for fault in faults_of_name(workdir, name):
            print(f"  {printable(fault)}")
    if corrupt:
        print("The next training start moves corrupt checkpoints aside and resumes from the newest intact one.")
        raise SystemExit(1)


if __name__ == "__main__":
    entry.run(main)
