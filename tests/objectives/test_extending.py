"""The objective of docs/extending.md, put into a copy of the repository as the page says, trains and resumes."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf8")


def run(command, folder, status=0):
    environ = environment() | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_objective_written_from_the_docs_trains_resumes_and_is_tested(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    for part in ("rankclip_jax", "input_pipeline", "configs", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "rankclip_jax" / "objectives" / "sigmoid.py").write_text(code)
    table = tmp_path / "rankclip_jax" / "objectives" / "__init__.py"
    text = table.read_text().replace("siglip, softclip", "siglip, sigmoid, softclip")
    table.write_text(text.replace('    "siglip": siglip,\n', '    "siglip": siglip,\n    "sigmoid": sigmoid,\n'))
    train = ["rankclip_jax.train", "--config", "demo", "--config.objective.name=sigmoid", "--config.train.steps=8",
             "--config.train.global_batch_size=16", "--config.data.validation_examples=32",
             "--workdir", tmp_path / "run",
             "--config.logging.every_steps=1", "--config.checkpoint.every_steps=4"]  # fmt: skip
    run(train, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    whole = [line["loss"] for line in lines if "loss" in line]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    assert "resuming from step 4" in run(train, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == whole
    check = (
        "import rankclip_jax.interop.loading as l, pathlib; v = l.read(pathlib.Path('run')).variables['params'];"
        "assert 0 < abs(float(v['margin']) - 5) < 0.1, v['margin']"
    )
    environ = environment() | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=environ, check=True)
    said = run(
        [
            "pytest",
            "tests/objectives",
            "-n0",
            "-k",
            "sigmoid",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=",
        ],
        tmp_path,
    )
    assert int(re.search(r"(\d+) passed", said)[1]) >= 8
