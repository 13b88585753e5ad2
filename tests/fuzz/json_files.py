"""Every file of JSON or JSON Lines that commands read, changed at random: what reads them raises a `UserError` at most.

python -m tests.fuzz.json_files --count 5000 --seed 0
"""

import argparse
import contextlib
import hashlib
import json
import math
import random
import resource
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot as plt

from rankclip_jax.checkpoints import checksums, lock, workdir
from rankclip_jax.checkpoints import manager as checkpoints
from rankclip_jax.evaluation import public_results, results, suite
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import hugging_face, loading
from rankclip_jax.models.clip import Clip
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.monitoring import goodput, html_report, status, summary_figure, writers
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.recipes import base
from rankclip_jax.settings.schema import to_dict
from tests import fuzz
from tests.fuzz.mutation import dump, mutate_bytes, mutate_value

SECONDS = 5  # of a processor, that one file may take
METRICS = [
    {"step": step, "loss": 3.0 / step, "finite": True, "validation/loss": None, "validation/batch_size": 16,
     "zero_shot/top_1": 0.5} for step in (1, 2, 3)
]  # fmt: skip
EVENTS = [{"time": "2026-01-01T00:00:00+0000", "host": "a", "process": 1, "event": "saving_failed", "words": "x"}] * 2
ATTEMPTS = [
    {"host": "a", "started": 1e9 + 100 * n, "from_step": n, "ended": 1e9 + 100 * n + 90, "step": n + 2,
     "seconds": dict.fromkeys(goodput.CAUSES, 1.0)} for n in range(3)
]  # fmt: skip
BEAT = {"time": 1e9, "host": "a", "process": 1, "step": 3, "doing": "step 3", "seconds": 0.1}
TASK = {"name": "a/b", "task": "zero_shot", "format": "webdataset", "path": "x", "shots": 1, "shared_captions": True}
RESULT = {
    "dataset": "a", "model": "ViT-demo", "pretrained": "x", "task": "zeroshot_classification", "language": "en",
    "metrics": {"acc1": 0.5, "acc5": None}, "provenance": {"weights": "x", "images": [3]},
}  # fmt: skip
OWNER = {"host": "a", "process": 1, "started": "2026-01-01 00:00:00"}
PIXELS = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


class Files:
    """A run's folder with all of its files, each with what reads it."""

    def __init__(self, folder):
        config = base()
        config.update_from_flattened_dict(
            {
                "data.source": "scenes",
                "data.validation_examples": 0,
                "model.name": "ViT-demo",
                "train.steps": 3,
                "train.epochs": 0,
            }
        )
        self.run, self.saved = folder / "run", folder / "run" / "checkpoints" / "3"
        self.folder = folder
        (self.saved / "default").mkdir(parents=True)
        workdir.write_config(self.run, config)
        (self.saved / "default" / "array").write_bytes(bytes(100))
        checksums.write(self.saved, 3, to_dict(config))
        for name, beginning in checksums._COMMIT_FILES.items():
            (self.saved / name).write_text(beginning)
        checksums.finalize(self.saved)
        assert not checkpoints.faults_of(self.run, 3)
        (self.run / "evaluation").mkdir()
        run, preset = self.run, PRESETS["ViT-B-32"]
        model = json.loads(json.dumps(hugging_face._model_config(Clip(preset))))
        old = {f"{part}_dict": model[part] for part in ("text_config", "vision_config")}
        self.kinds = {
            "config.json": (run / "config.json", to_dict(config), self.read_run),
            "metrics.jsonl": (run / "metrics.jsonl", METRICS, self.read_metrics),
            "events.jsonl": (run / "events.jsonl", EVENTS, self.read_run),
            "goodput.jsonl": (run / "goodput.jsonl", ATTEMPTS, self.read_goodput),
            "heartbeat.json": (run / "heartbeat.json", BEAT, self.read_run),
            "evaluation": (run / "evaluation" / "3.json", {"loss": 1.0, "zero_shot/top_1": None}, self.read_results),
            "about.json": (self.saved / "about.json", json.loads((self.saved / "about.json").read_text()), self.verify),
            "SHA256SUMS": (self.saved / "SHA256SUMS", None, self.verify),
            "lock": (run / "lock", OWNER, lambda: print(lock._owner(run / "lock"), lock._is_own(b"{}", OWNER))),
            "suite": (folder / "suite.json", {"name": "x", "tasks": [TASK, TASK | {"name": "c"}]}, self.read_suite),
            "result": (folder / "result.json", RESULT, self.read_result),
            "hugging_face": (folder / "config.json", model | old, self.read_hugging_face),
            "preprocessor": (folder / "preprocessor_config.json", PIXELS, self.read_pixels),
        }  # fmt: skip
        for path, content, _ in self.kinds.values():
            if content is not None:
                path.write_bytes(encoded(path, content))
        self.whole = {kind: path.read_bytes() for kind, (path, _, _) in self.kinds.items()}

    def draw(self, rng, kind):
        """The bytes of a changed file."""
        path, content, _ = self.kinds[kind]
        if content is not None and rng.random() < 0.7:
            changed = mutate_value(rng, content)
            made = encoded(path, changed)
            return mutate_bytes(rng, made) if rng.random() < 0.1 else made
        return mutate_bytes(rng, self.whole[kind])

    def read(self, kind, content):
        """Reads a file of such a content as commands do; what they say."""
        path, _, reader = self.kinds[kind]
        path.write_bytes(content)
        if kind == "about.json":  # by somebody who can write digests too
            lines = [line for line in self.whole["SHA256SUMS"].decode().splitlines() if "about.json" not in line]
            lines.append(f"{hashlib.sha256(content).hexdigest()}  about.json")
            (self.saved / "SHA256SUMS").write_text("\n".join(lines) + "\n")
        try:
            return reader() or ""
        except UserError as error:
            return str(error)
        finally:
            path.write_bytes(self.whole[kind])
            (self.saved / "SHA256SUMS").write_bytes(self.whole["SHA256SUMS"])

    def read_run(self):
        lines = [*status.lines(self.run), *status.describe_differences(self.run, self.run)]
        html_report.write([self.run], self.folder / "report.html")
        return "\n".join(lines)

    def read_metrics(self):
        axes = plt.figure().subplots()
        summary_figure._draw_curves(axes, self.run)
        axes.figure.savefig(self.folder / "x.png", dpi=20)
        plt.close("all")
        writers._drop_later_steps(self.run / "metrics.jsonl", 2)
        return self.read_run()

    def read_goodput(self):
        said = self.read_run()
        goodput.Ledger(self.run, Timeline(), time.monotonic()).begin(3)
        return said

    def read_results(self):
        self.read_run()
        results.write(self.run, 3, [])

    def verify(self):
        faults = checkpoints.faults_of(self.run, 3)
        return "\n".join(faults) if faults else checkpoints.describe_checkpoint(self.run, 3)

    def read_suite(self):
        for task in suite.read(self.folder / "suite.json"):
            assert task.name.isprintable()

    def read_result(self):
        found = public_results.read(self.folder / "result.json")
        if found is not None:
            public_results.write_lines(self.folder / "lines.jsonl", {"a": ("", found, "acc1")})
            assert math.isfinite(public_results.main_metric(found, "acc5") or 0.0)

    def read_hugging_face(self):
        path = self.folder / "config.json"
        hugging_face.check_config(path, hugging_face.resolve(loading._read_settings(path), path), PRESETS["ViT-B-32"])

    def read_pixels(self):
        assert all(
            len(value) == 3 for value in loading._processor_pixels(self.folder / "preprocessor_config.json").values()
        )


def encoded(path, content):
    if path.suffix == ".jsonl" and isinstance(content, list):
        return b"".join(dump(line) + b"\n" for line in content)
    return dump(content)


def run(count, seed, kinds=None):
    """Draws so many files; what went wrong, a report each."""
    wrong = []
    silent = contextlib.redirect_stdout(None)
    with fuzz.quiet(), tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), silent:
        warnings.simplefilter("ignore")
        files = Files(Path(name))
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            kind = rng.choice(kinds or list(files.kinds))
            content, start = files.draw(rng, kind), time.process_time()
            fault = ""
            try:
                said = files.read(kind, content)
                if not all(character.isprintable() or character == "\n" for character in said):
                    fault = f"prints control characters: {said!r}"
            except Exception:
                fault = traceback.format_exc()
            if (took := time.process_time() - start) > SECONDS:
                fault += f"took {took:.1f} s"
            if fault:
                wrong.append(f"{kind}, seed {seed}, number {number}: {content[:300]!r}\n{fault}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind")
    given = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = run(given.count, given.seed, [given.kind] if given.kind else None)
    print("\n\n".join(wrong))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(
        f"{given.count:,} files: {len(wrong)} made a command fail otherwise than by a paragraph; {grown:.2f} GiB more"
    )
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
