"""Every command in the README is run, as it stands there."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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
            assert "(1.00 x ours)" in run(command_of_a_test, tmp_path)
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
