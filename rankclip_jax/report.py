"""Writes a self-contained HTML report of one or more runs, readable without a network.

python -m rankclip_jax.report --workdir DIR [MORE ...] --output report.html
"""

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.object_stores import path_of

define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; add the folders of more runs after it")
_OUTPUT = flags.DEFINE_string("output", None, "HTML file to write, such as report.html")


def main(*more: str) -> None:
    """Writes the report."""
    first = entry.path_flag(_WORKDIR, "Use the folder of a run, such as --workdir runs/demo.")
    output = entry.local_path(_OUTPUT, "Use the file to write, such as --output report.html.")
    workdirs = [first, *map(path_of, more)]
    if repeated := [folder for folder in workdirs if workdirs.count(folder) > 1]:
        raise UserError(f"--workdir: {repeated[0]} is given twice. Use each run once.")
    entry.check_can_be_written("output", output)
    from rankclip_jax.monitoring import html_report  # after the flags, since importing JAX takes long

    html_report.write(workdirs, output)
    print(f"Report: {printable(output)}")


if __name__ == "__main__":
    entry.run(main, takes_words=True)
