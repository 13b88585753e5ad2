"""Prints the status of a run from its workdir: step, last activity, time spent and recent events.

python -m rankclip_jax.status --workdir DIR [--against DIR]
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.input_pipeline.files import printable

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_AGAINST = flags.DEFINE_string("against", None, "folder of another run; also lists the settings that differ")


def main() -> None:
    """Prints the status."""
    workdir = entry.path_flag(_WORKDIR, "Use the folder of a run, such as --workdir runs/demo.")
    from rankclip_jax.monitoring import status  # after the flags, since importing JAX takes long

    for line in status.lines(workdir):
        print(printable(line, 10_000))
    if _AGAINST.value is not None:
        other = entry.path_flag(_AGAINST, "Use the folder of another run, such as --against runs/demo.")
        for line in status.describe_differences(workdir, other):
            print(printable(line, 10_000))


if __name__ == "__main__":
    entry.run(main)
