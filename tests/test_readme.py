"""Every command in the README is run, as it stands there."""

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from configs import demo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf8")
SMALL = "--config.train.steps=4 --config.train.global_batch_size=16 --config.data.validation_examples=32"


def commands():
    """The lines of all bash blocks, continued ones joined, comments dropped."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
    return [shlex.join(words) for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def run(command, folder, **variables):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | variables
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_training_of_the_readme_meets_a_run_that_a_command_before_it_has_finished():
    """Printed one after the other, each trains: `make demo`, the first, leaves runs/demo."""
    folders = ["runs/demo"]
    for command in commands():
        if "rankclip_jax.train" in command:
            words = shlex.split(command)
            recipe = Path(words[words.index("--config") + 1]).stem
            folder = words[words.index("--workdir") + 1] if "--workdir" in words else f"runs/{recipe}"
            assert folder not in folders, command
            folders.append(folder)
        elif "--workdir" in command:
            words = shlex.split(command)
            assert words[words.index("--workdir") + 1] in folders[1:], command  # of this section, without the demo
    assert len(folders) > 4


def test_the_picture_is_of_the_demo_as_it_is():
    """It is the demo's report.png with fewer colours; who draws it writes the run's steps into it."""
    with Image.open(ROOT / "docs" / "demo.png") as picture:
        assert picture.text == {"steps": str(demo.get_config().train.steps)}
    assert (ROOT / "docs" / "demo.png").stat().st_size < 100_000
    assert f"After {demo.get_config().train.steps} steps" in README


def test_the_versions_that_the_readme_names_are_those_of_the_locked_installation():
    locked = {path.stem: dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.MULTILINE))
              for path in (ROOT / "constraints").glob("*.txt")}  # fmt: skip
    assert set(locked) == {"python3.11", "python3.12"}
    words = " ".join(README.split())
    assert f"JAX {locked['python3.11']['jax']} on Python 3.11" in words
    assert f"JAX {locked['python3.12']['jax']} on Python 3.12 and 3.13" in words
    for name, versions in locked.items():
        for line in (ROOT / "requirements.txt").read_text().splitlines():
            if not line.startswith("#"):
                wanted = Requirement(line)
                assert versions[wanted.name.lower().replace("_", "-")] in wanted.specifier, (name, line)


@pytest.mark.parametrize("locked", ["", "0", "1"])
def test_a_locked_installation_takes_the_versions_of_its_python(locked, tmp_path):
    said = run(f"make -n install LOCKED={locked} VENV={shlex.quote(str(tmp_path / 'venv'))}", ROOT)
    assert ("-c constraints/python3.$(" in said) == (locked == "1")
    assert "1 of 2: creating the environment" in said
    assert "2 of 2: installing JAX" in said


def test_what_pip_resolved_becomes_constraints_without_accelerators_libraries():
    script = runpy.run_path(str(ROOT / ".ci" / "lock.py"))
    found = [
        ("jax", "1.2"),
        ("Orbax_Checkpoint", "3"),
        ("torch", "2.13.0+cpu"),
        ("nvidia-cublas", "1"),
        ("triton", "3"),
    ]
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in found]}
    assert script["lines"](report) == ["jax==1.2", "orbax-checkpoint==3", "torch==2.13.0"]
    assert [script["name"](minor) for minor in (11, 12, 14)] == ["python3.11.txt", "python3.12.txt", "python3.12.txt"]


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(1800)
def test_the_trainings_and_evaluations_of_the_readme_run(tmp_path):
    """In their order, shortened, in a folder with a user's files."""
    for name in ("train", "validation"):
        rows = ["filepath,title", *(f"{name}{index}.png,picture {index}" for index in range(16))]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
        for index in range(16):
            Image.new("RGB", (32, 32), (index * 15, 9, 9)).save(tmp_path / f"{name}{index}.png")
    ran = []
    for command in commands():
        if command.startswith("python -m rankclip_jax.train"):
            assert "Report: " in run(f"{command} {SMALL}", tmp_path)
        elif command.startswith("python -m rankclip_jax.export"):
            if "--format rankclip" in command and not importlib.util.find_spec("torch"):
                ran.append(command)  # which the README says it needs
                continue
            assert "Wrote demo" in run(command, tmp_path)
        elif command.startswith("python -m rankclip_jax.benchmark input"):
            assert "pairs/s per core" in run(f"{command} --pairs=256", tmp_path)
        elif command.startswith("python -m rankclip_jax.benchmark train"):
            command_of_a_test = f"{command} --config.train.global_batch_size=16 --steps=1"
            said = run(command_of_a_test, tmp_path)
            assert re.search(r"rankclip_jax .* ms per step, .* pairs/s; time relative to rankclip_jax", said)
        elif command.startswith("launch/local.sh"):
            words = f"{ROOT}/{command} {SMALL}".replace(" python ", f" {shlex.quote(sys.executable)} ")
            assert "2 process(es)" in run(words, tmp_path)
        elif command.startswith("python "):
            assert run(command, tmp_path)
        else:
            continue
        ran.append(command)
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        assert run(f"python -c {shlex.quote(block + 'print(similarity.shape)')}", tmp_path) == "(2, 2)\n"
    assert set(commands()) - set(ran) == {"make demo", "make test", "source .venv/bin/activate"}


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(1800)
def test_the_demo_learns_what_the_readme_says(tmp_path):
    """The demo itself: `make test` is what runs this, and installs what `make demo` does."""
    command = f"make demo RUN={shlex.quote(sys.executable)} WORKDIR={shlex.quote(str(tmp_path))}"
    said = run(command, ROOT, JAX_DISABLE_MOST_OPTIMIZATIONS="false")
    top_1 = float(re.search(r"zero_shot/top_1 +([\d.]+)%", said)[1])
    assert top_1 >= 85
    claimed = float(re.search(r"(\d+) % top-1 of 64 classes", README)[1])
    assert abs(top_1 - claimed) < 5
    assert f"Report: {tmp_path}/report.png" in said
    assert "What" in (tmp_path / "report.html").read_text()
