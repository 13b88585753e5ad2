"""Writes a page about one run or several: one file, no network needed to read it.

python -m rankclip_jax.report --workdir DIR [MORE ...] --output report.html
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.object_stores import path_of

define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; those of more runs may follow")
_OUTPUT = flags.DEFINE_string("output", None, "the file to write, such as report.html")


def main(*more: str) -> None:
    """Writes what the flags name."""
    first = entry.path_flag(_WORKDIR, "Name the run, such as --workdir runs/demo.")
    output = entry.local_path(_OUTPUT, "Name the file to write, such as --output report.html.")
    workdirs = [first, *map(path_of, more)]
    if repeated := [folder for folder in workdirs if workdirs.count(folder) > 1]:
        raise UserError(f"--workdir: {repeated[0]} is named twice.")
    entry.check_can_be_written("output", output)
    from rankclip_jax.monitoring import html_report  # after the flags, since importing JAX takes long

    html_report.write(workdirs, output)
    print(f"Report: {printable(output)}")


if __name__ == "__main__":
    entry.run(main, takes_words=True)
