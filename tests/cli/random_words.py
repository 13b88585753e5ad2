"""Command lines drawn at random over all settings and flags: types, signs, sizes, non-finite values.

Run whole processes, long: python -m tests.cli.random_words 100 [SEED]
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from rankclip_jax import recipes
from rankclip_jax.settings.schema import flatten
from tests.commands import ROOT, environment

NUMBERS = [
    "-1", "0", "1", "2", "3", "7", "16", "0.5", "-0.5", "1.5", "1e-30", "1e30", "-1e30", "nan", "inf", "-inf", "4096",
    "2000000", "1000000000000", "-99999999999999999999", "99999999999999999999999",
]  # fmt: skip
WORDS = [
    "", " ", "x", "None", "True", "../..", "/proc", "/dev/null", "configs/demo.py", "a" * 300, "ünïcode 画像", "a,b",
    "\\t", "(1,2)", "[]", "{}", "$HOME", "%s", "clip", "siglip", "adamw", "muon", "constant", "random",
]  # fmt: skip
TUPLES = [
    "()", "(0.5,)", "(0.5,1.0)", "(1.0,0.5)", "(nan,1)", "(0,0,0)", "(0.1,0.2,0.3)", "(0.1,0.1,0.1,0.9)", "(-1,2)",
    "('a','b')", "(('vision',0.1),)", "(('(',0.1),)", "(('vision','x'),)", "1", "((1,2),(3,4))",
]  # fmt: skip
# What keeps a run short where the draw leaves it alone.
SHORT = {
    "model.name": "ViT-demo", "train.steps": 2, "train.global_batch_size": 8, "data.train_examples": 64,
    "data.validation_examples": 8, "data.workers": 0, "logging.every_steps": 1,
}  # fmt: skip
FLAGS = {
    "rankclip_jax.evaluate": ["--workdir=RUN", "--step=NUMBER", "--tasks=WORD", "--weights=WORD"],
    "rankclip_jax.export": ["--workdir=RUN", "--step=NUMBER", "--format=WORD", "--output=WORD"],
    "rankclip_jax.benchmark": [
        "loss", "--batch_sizes=NUMBER", "--embedding_size=NUMBER", "--objective=WORD", "--chunk_size=NUMBER",
        "--list_size=NUMBER", "--json=WORD", "--topology=WORD",
    ],
    "rankclip_jax.plan": [
        "--config=configs/demo.py", "--topology=WORD", "--memory=NUMBER", "--find=WORD", "--price=NUMBER",
        "--pairs=NUMBER", "--json=WORD", "--picture=WORD",
    ],
    "rankclip_jax.input_pipeline.prepare": [
        "--source=csv", "--input=LIST", "--output=OUT", "--shrink=NUMBER", "--quality=NUMBER", "--min_side=NUMBER",
        "--max_aspect=NUMBER", "--shard_size=NUMBER", "--min_caption=NUMBER", "--max_caption=NUMBER",
        "--validation_share=NUMBER", "--delimiter=WORD", "--image_key=WORD", "--split=WORD", "--workers=1",
    ],
    "rankclip_jax.input_pipeline.inspect": [
        "DATA", "--pairs=NUMBER", "--seed=NUMBER", "--split=WORD", "--contact_sheet=WORD",
    ],
}  # fmt: skip
_FIXED = {
    "--workdir=RUN",
    "--source=csv",
    "--input=LIST",
    "--output=OUT",
    "--workers=1",
    "loss",
    "DATA",
    "--config=configs/demo.py",
}


def draw_settings(rng, count):
    """Names and texts of ``count`` settings, most of a kind that the setting is not."""
    defaults = dict(flatten(recipes.base().to_dict()))
    return {
        str(name): str(rng.choice(_texts(rng, defaults[str(name)])))
        for name in rng.choice(list(defaults), count, False)
    }


def _texts(rng, default):
    if rng.random() < 0.2:
        return NUMBERS + WORDS + TUPLES
    if isinstance(default, tuple):
        return TUPLES
    return WORDS if isinstance(default, str) else [*NUMBERS, "True", "False"]


def draw_command(rng, places):
    """A whole command line of some module, and what it may leave behind."""
    module = str(rng.choice(["rankclip_jax.train", "rankclip_jax.train", "rankclip_jax.benchmark input", *FLAGS]))
    if module in ("rankclip_jax.train", "rankclip_jax.benchmark input"):
        drawn = draw_settings(rng, rng.integers(1, 4))
        words = [f"--config.{name}={value}" for name, value in (SHORT | drawn).items()]
        if "steps" in str(drawn) or "epochs" in str(drawn):
            words = [word for word in words if "train.steps=2" not in word]
        extra = ["--workdir", str(places["OUT"])] if module.endswith("train") else ["--pairs=8", "--rate=10"]
        return [*module.split(), "--config", "demo", *words, *extra]
    words = [word for word in FLAGS[module] if word in _FIXED or rng.random() < 0.4]
    for name, texts in (("NUMBER", NUMBERS), ("WORD", WORDS)):
        words = [word.replace(name, str(rng.choice(texts))) for word in words]
    for name, path in places.items():
        words = [re.sub(rf"(^|=){name}$", rf"\g<1>{path}", word) for word in words]
    return [module, *words]


def main(count, seed=0):
    """Runs ``count`` commands and prints those that end otherwise than they should."""
    rng = np.random.default_rng(int(seed))
    bad = statuses = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = _places(folder)
        for number in range(int(count)):
            places["OUT"] = folder / f"out{number}"
            command = draw_command(rng, places)
            status, said, errors = _run(command, folder)
            statuses += status == 0
            wrong = [] if status in (0, 2) else [f"exit status {status}"]
            wrong += ["traceback"] if "Traceback" in errors else []
            wrong += (
                ["no paragraph"]
                if status == 2 and "rankclip_jax: " not in errors and "input_pipeline" not in errors
                else []
            )
            diverged = "the run has diverged" in errors
            wrong += ["left behind"] if status == 2 and places["OUT"].exists() and not diverged else []
            if wrong:
                bad += 1
                print(f"{wrong}: {' '.join(command)}\n{said[-300:]}\n{errors[-1500:]}\n", flush=True)
    print(f"{count} commands: {statuses} ended with 0, {bad} otherwise than they should")


def _places(folder):
    rows = ["filepath,title"]
    for number in range(24):
        Image.new("RGB", (40, 30), (number * 10, 9, 9)).save(folder / f"{number}.jpg")
        rows.append(f"{number}.jpg,picture {number}")
    (folder / "list.csv").write_text("\n".join(rows))
    places = {"LIST": folder / "list.csv", "RUN": folder / "run", "DATA": folder / "data"}
    short = [f"--config.{name}={value}" for name, value in SHORT.items()]
    for command in (
        ["rankclip_jax.train", "--config", "demo", *short, "--workdir", str(places["RUN"])],
        [
            "rankclip_jax.input_pipeline.prepare",
            "--source=csv",
            f"--input={places['LIST']}",
            f"--output={places['DATA']}",
        ],
    ):
        status, _, errors = _run(command, folder)
        assert status == 0, errors
    return places


def _run(command, folder):
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, errors = process.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a long run is no fault: it must stop well
        try:
            said, errors = process.communicate(timeout=60)
            return 0 if process.returncode in (0, 130) else process.returncode, said, errors
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            said, errors = process.communicate()
            return 999, said, errors
    return process.returncode, said, errors


if __name__ == "__main__":
    main(*sys.argv[1:])
