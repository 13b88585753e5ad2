"""What every command says when it is asked for help, or given a name that is not there."""

import argparse
import re
import subprocess
import sys

import pytest

from rankclip_jax import recipes
from rankclip_jax.cli import flags
from rankclip_jax.settings.schema import flatten
from tests.commands import ROOT, environment, run

SETTINGS = [f"config.{name}" for name, _ in flatten(recipes.base().to_dict())]
WITH_RECIPE = ("train", "plan", "benchmark", "study", "embed")
COMMANDS = (*WITH_RECIPE, "evaluate", "explore", "export", "report", "status", "verify")


def test_these_are_all_commands():
    """Whatever begins with a line of its own use: python -m rankclip_jax.NAME."""
    folder = ROOT / "rankclip_jax"
    found = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__main__.py")}
    assert found - {"__init__", "recipes"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_flag_and_how_settings_are_given(name):
    done = subprocess.run(
        [sys.executable, "-m", f"rankclip_jax.{name}", "--help"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    source = next(path for path in (ROOT / "rankclip_jax" / f"{name}.py", ROOT / "rankclip_jax" / name / "__main__.py")
                  if path.is_file()).read_text()  # fmt: skip
    assert f"python -m rankclip_jax.{name}" in done.stdout
    flags = re.findall(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"", source)
    assert flags
    told = re.findall(r"^  --(\w+)\S*\n {8}\S", done.stdout, re.MULTILINE)
    assert set(flags) <= set(told)
    assert set(told) - set(flags) <= {"config"}
    assert ("config" in told) == ("define_config()" in source or "define_recipe()" in source)
    missing = [setting for setting in SETTINGS if f"\n  {setting} = " not in done.stdout]
    assert not missing if name in WITH_RECIPE else len(missing) == len(SETTINGS)
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize(
    ("given", "near"),
    {
        "config.train.batch_size": "config.train.global_batch_size",
        "config.optimizer.learning_rte": "config.optimizer.learning_rate",
        "config.train.learning_rate": "config.optimizer.learning_rate",
        "config.model.img_size": "config.model.image_size",
        "config.logging.every_step": "config.logging.every_steps",
        "config.checkpoint.every_step": "config.checkpoint.every_steps",
        "config.model.context_lenght": "config.model.context_length",
        "config.model.depth": None,
        "config.data.tokenizer": "config.model.tokenizer",
        "config.train.x": None,
        "config.train.": None,
    }.items(),
)
def test_only_near_names_are_proposed(given, near):
    suggestion = flags._suggest(given, SETTINGS)
    assert suggestion == (f" Did you mean --{near}?" if near else flags._suggest("config.zzz", SETTINGS))
    assert "See --help" in flags._suggest("config.zzz", SETTINGS)


def test_a_section_tells_what_is_in_it():
    said = flags._suggest("config.mesh", SETTINGS)
    assert all(f"--config.mesh.{name}" in said for name in ("replica", "data", "fsdp", "overrides"))


@pytest.mark.parametrize("name", ["prepare", "inspect"])
def test_help_of_the_input_pipelines_commands_tells_every_flag(name):
    done = subprocess.run(
        [sys.executable, "-m", f"input_pipeline.{name}", "--help"],
        cwd=ROOT, env=environment() | {"COLUMNS": "200"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.split("options:")[1]
    assert told.count("\n  -") > 4
    assert not re.findall(r"^  --\w+(?: [\w{},]+)?\n(?=  -)", told, re.MULTILINE)  # each has a meaning
    assert argparse.SUPPRESS not in told


@pytest.mark.parametrize("name", ["class", "in", "None"])
def test_a_task_cannot_be_named_by_a_python_keyword(name):
    flag = f"--config.evaluation.tasks.{name}.task"
    done = run("train", "--config", "demo", f"{flag}=zero_shot", status=2)
    assert f"{flag}: expected a name that is not a Python keyword; found '{name}'." in done.stderr


OF_A_FAILED_SAVE = """
import asyncio, logging
from rankclip_jax.cli import entry

async def write():
    raise ValueError("NOT_FOUND: Error writing")

async def save():  # as Orbax does, which raises the first failure only
    await asyncio.wait([asyncio.gather(write(), write())])

def main():
    asyncio.run(save())
    logging.getLogger("asyncio").error("something else")

entry.run(main)
"""


def test_what_asyncio_repeats_of_a_failed_save_is_not_printed():
    done = subprocess.run(
        [sys.executable, "-c", OF_A_FAILED_SAVE], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=100,
        check=True,
    )  # fmt: skip
    assert done.stderr == "something else\n"
