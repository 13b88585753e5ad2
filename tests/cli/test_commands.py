"""The console command `rankclip-jax`: each command does what `python -m` does."""

import ast
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

COMMANDS = (
    "benchmark",
    "embed",
    "evaluate",
    "explore",
    "export",
    "plan",
    "report",
    "status",
    "study",
    "train",
    "verify",
)
MODULES = {name: f"rankclip_jax.{name}" for name in COMMANDS} | {
    name: f"rankclip_jax.input_pipeline.{name}" for name in ("inspect", "prepare")
}


def run(command, folder):
    """Exit status, output and errors; the package is found as an installed one is."""
    environ = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def console(*words):
    return [sys.executable, "-c", "from rankclip_jax.cli.commands import main; main()", *words]


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_commands_are_listed_with_a_line_each_and_nothing_is_imported(words, tmp_path):
    script = "import sys; from rankclip_jax.cli.commands import main; main(); assert 'jax' not in sys.modules"
    status, output, errors = run([sys.executable, "-c", script, *words], tmp_path)
    assert (status, errors) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in output.partition("Commands:\n")[2].splitlines())
    assert set(listed) == set(MODULES)
    for name, module in MODULES.items():
        source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf8")
        assert listed[name] == ast.get_docstring(ast.parse(source)).splitlines()[0]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--help"),
        ("train", "--config", "mine.py", "--config.train.x=1"),
        ("verify", "--workdir", "nowhere"),
        ("prepare", "--source", "csv"),
        ("inspect", "nowhere"),
    ],
    ids=" ".join,
)
def test_a_command_does_what_python_m_does(words, tmp_path):
    """A recipe imports a module of the current folder, as under `python -m`."""
    (tmp_path / "mine.py").write_text(
        "import helper\nfrom rankclip_jax.recipes import base\n\n\ndef get_config():\n    return base()\n"
    )
    (tmp_path / "helper.py").write_text("")
    name, *flags = words
    module = run([sys.executable, "-m", MODULES[name], *flags], tmp_path)
    assert run(console(*words), tmp_path) == module
    assert module[0] == (0 if "--help" in words else 2)
    assert "helper" not in module[2]


def test_an_unknown_command_is_named_beside_all_commands(tmp_path):
    status, output, errors = run(console("trian", "--help"), tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith("rankclip-jax: unknown command 'trian'; choose from ")
    assert all(name in errors for name in MODULES)
