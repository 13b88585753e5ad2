"""Says of each checkpoint of a run whether it is, to the bit, what was saved.

python -m rankclip_jax.verify --workdir DIR [--step N]
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "look at this checkpoint alone", lower_bound=0)


def main() -> None:
    """Prints a line for each, and exits with 0 if all are whole and 1 if not."""
    workdir = entry.path_flag(_WORKDIR, "Name the run, such as --workdir runs/demo.")
    from rankclip_jax.checkpoints.manager import (  # after the flags, since importing JAX takes long
        describe_proof,
        faults_of,
        faults_of_name,
    )
    from rankclip_jax.checkpoints.workdir import misnamed, read_config, saved_steps

    read_config(workdir)
    steps, others = saved_steps(workdir), misnamed(workdir)
    if not steps and not others:
        raise UserError(f"--workdir: {workdir} has no checkpoint yet.")
    if _STEP.value is not None and _STEP.value not in steps:
        raise UserError(f"--step: no checkpoint of step {_STEP.value} in {workdir}; choose from {steps}.")
    broken = 0
    for step in steps if _STEP.value is None else [_STEP.value]:
        faults = faults_of(workdir, step)
        broken += bool(faults)
        print(printable(f"step {step}: {'CORRUPT' if faults else describe_proof(workdir, step)}"))
        for fault in faults:
            print(f"  {printable(fault)}")
    for name in others if _STEP.value is None else []:
        broken += 1
        print(f"{printable(name)}: not a checkpoint")
        for fault in faults_of_name(workdir, name):
            print(f"  {printable(fault)}")
    if broken:
        print("The next start of the training sets such a checkpoint aside and resumes from the one before it.")
        raise SystemExit(1)


if __name__ == "__main__":
    entry.run(main)
