"""Says how a run stands, from the files of its workdir: step, sign of life, where its time goes, what happened.

python -m rankclip_jax.status --workdir DIR [--against DIR]
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.input_pipeline.files import printable

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_AGAINST = flags.DEFINE_string("against", None, "folder of another run: tells the settings that differ as well")


def main() -> None:
    """Prints it."""
    workdir = entry.path_flag(_WORKDIR, "Name the run, such as --workdir runs/demo.")
    from rankclip_jax.monitoring import status  # after the flags, since importing JAX takes long

    for line in status.lines(workdir):
        print(printable(line, 10_000))
    if _AGAINST.value is not None:
        other = entry.path_flag(_AGAINST, "Name another run, such as --against runs/demo.")
        for line in status.describe_differences(workdir, other):
            print(printable(line, 10_000))


if __name__ == "__main__":
    entry.run(main)
