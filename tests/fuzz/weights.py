"""Files of weights, changed at random: reading them raises a `UserError` at most, in bounded time and memory.

python -m tests.fuzz.weights --count 3000 --seed 0
"""

import argparse
import faulthandler
import functools
import io
import json
import random
import resource
import shutil
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import files, hugging_face, loading, open_clip
from rankclip_jax.models.clip import Clip, abstract_variables
from rankclip_jax.models.presets import Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from tests import fuzz
from tests.fuzz.mutation import HOSTILE, dump, mutate_bytes, mutate_value

SECONDS = 5  # of a processor, that one file may take
GIBIBYTES = 1.0  # that all of them may add
MINI = {
    "mini": Preset(
        8,
        VisionTransformerConfig(32, 8, 8, 1, 1),
        TextTransformerConfig(width=8, layers=1, heads=1, context_length=8, vocabulary_size=32),
    ),
    "small": Preset(
        8,
        VisionTransformerConfig(32, 8, 8, 2, 1),
        TextTransformerConfig(width=8, layers=2, heads=1, context_length=8, vocabulary_size=32),
    ),
}
TYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "C64", "I64", "U8", "BOOL", "F4", "XX", 3, None]
PREFIXES = ["module.", "_orig_mod.", "model.", "text.", "_forward_module.", "x.", "\x1b[2J", "", ".", "visual."]
SHAPES = [[], [0], [1], [-1], [100_000_001, 0], [2**62, 4], [17, 8], [26, 8], [1] * 70, [2**31], "8", [8, 8, 8]]
KINDS = ("safetensors", "pt", "legacy", "hugging_face")


class Originals:
    """The bytes of whole files that are read without an error."""

    def __init__(self, folder):
        self.torch = files.import_torch("the fuzzer")
        model = Clip(MINI["mini"])
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), abstract_variables(model))
        open_clip.write(folder / "x.safetensors", "mini", model, variables)
        self.tensors = open_clip.state_dict(model, variables)
        self.safetensors = (folder / "x.safetensors").read_bytes()
        hugging_face.write(folder / "hf", model, variables)
        self.config = json.loads((folder / "hf" / "config.json").read_text())
        self.config["text_config"]["eos_token_id"] = 2
        self.hf_weights = (folder / "hf" / "model.safetensors").read_bytes()
        state = {name: self.torch.tensor(tensor) for name, tensor in self.tensors.items()}
        self.archive, self.legacy = (self._saved({"epoch": 1, "state_dict": state}, new) for new in (True, False))

    def _saved(self, content, new):
        file = io.BytesIO()
        self.torch.save(content, file, _use_new_zipfile_serialization=new)
        return file.getvalue()

    def draw(self, rng, kind, path):
        """Writes a changed file, or folder, at the path."""
        match kind:
            case "safetensors":
                path.write_bytes(mutate_safetensors(rng, self.safetensors))
            case "pt":
                path.write_bytes(rng.choice([mutate_archive, mutate_bytes])(rng, self.archive))
            case "legacy":
                path.write_bytes(mutate_bytes(rng, self.legacy))
            case "hugging_face":
                path.mkdir()
                config = mutate_value(rng, self.config) if rng.random() < 0.7 else self.config
                (path / "config.json").write_bytes(dump(config))
                weights = mutate_safetensors(rng, self.hf_weights) if rng.random() < 0.5 else self.hf_weights
                (path / "model.safetensors").write_bytes(weights)
                if rng.random() < 0.3:
                    pixels = {
                        "image_mean": rng.choice([*HOSTILE, [0.5, 0.5, 0.5]]),
                        "do_normalize": rng.choice(HOSTILE),
                    }
                    (path / "preprocessor_config.json").write_bytes(dump(pixels))


def mutate_safetensors(rng, content):
    """A file whose header, length or data are changed; often one whose header is JSON all the same."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    match rng.randrange(6):
        case 0:
            return mutate_bytes(rng, content)
        case 1:
            header = mutate_value(rng, header)
        case 2:
            prefix = rng.choice(PREFIXES)
            header = {key if key == "__metadata__" else prefix + key: value for key, value in header.items()}
        case 3:
            stated = {"pixel_mean": str(rng.choice(HOSTILE))[:99], "activation": "gelu"}
            header["__metadata__"] = rng.choice([stated, *HOSTILE])
        case _:
            for _ in range(rng.randrange(1, 4)):
                mutate_entry(rng, header, len(data))
    made = dump(header)
    length = rng.choice([len(made)] * 9 + [0, 2**63, len(made) + 1, 2**27])
    return struct.pack("<Q", length) + made + (data if rng.random() < 0.9 else data[: rng.randrange(len(data) + 1)])


def mutate_entry(rng, header, size):
    """Changes what a header of safetensors says of one tensor."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    match rng.randrange(6):
        case 0:
            header[name]["dtype"] = rng.choice(TYPES)
        case 1:
            header[name]["shape"] = rng.choice(SHAPES)
        case 2:
            places = [rng.choice([0, 4, -1, 2**60, size]) for _ in range(rng.choice([1, 2, 2, 3]))]
            header[name]["data_offsets"] = places
        case 3:
            header[rng.choice(PREFIXES) + name] = header.pop(name)
        case 4:
            del header[name]
        case 5:
            header[name] |= {"shape": [100_000_001, 0], "data_offsets": [size, size]}


def mutate_archive(rng, content):
    """An archive of PyTorch's some of whose members are changed, doubled, gone, or compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(made, "w") as other:
        names = archive.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        chosen = rng.choice([pickled] * 3 + names)
        for name in names:
            member = archive.read(name)
            compression = zipfile.ZIP_STORED
            if name == chosen:
                match rng.randrange(6):
                    case 0 if name != pickled:
                        continue
                    case 1:
                        compression, member = zipfile.ZIP_DEFLATED, member + bytes(rng.choice([0, 10**6]))
                    case 2:
                        member = member * 2
                    case _:
                        member = mutate_bytes(rng, member)
            other.writestr(name, member, compress_type=compression)
    return made.getvalue()


def read(path):
    """As every command does that takes weights."""
    loading.identify(path)
    return loading.read(path)


def run(count, seed, kinds=KINDS):
    """Draws so many; what went wrong, a report each, and how many were read."""
    faulthandler.enable()
    wrong, whole = [], 0
    # The shapes of a model are traced once for each: what is read differs, not the presets.
    traced = functools.cache(abstract_variables)
    with (
        fuzz.quiet(),
        tempfile.TemporaryDirectory() as name,
        warnings.catch_warnings(),
        mock.patch.dict(loading.PRESETS, MINI, clear=True),
        mock.patch.object(loading, "abstract_variables", lambda model: jax.tree.map(lambda leaf: leaf, traced(model))),
    ):
        warnings.simplefilter("ignore")
        loading._shapes_of.cache_clear()
        originals = Originals(Path(name))
        for whole_one in ("x.safetensors", "hf"):
            read(Path(name) / whole_one)
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            kind = rng.choice(kinds)
            path = Path(name) / ("folder" if kind == "hugging_face" else f"y.{'pt' if kind == 'legacy' else kind}")
            originals.draw(rng, kind, path)
            start, fault = time.process_time(), ""
            try:
                read(path)
                whole += 1
            except UserError as error:
                if not str(error).isprintable():
                    fault = f"prints control characters: {error!r}"
            except Exception:
                fault = traceback.format_exc()
            if (took := time.process_time() - start) > SECONDS:
                fault += f"took {took:.1f} s"
            if fault:
                wrong.append(f"{kind}, seed {seed}, number {number}\n{fault}")
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    loading._shapes_of.cache_clear()
    return wrong, whole


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    given = parser.parse_args()
    run(1, given.seed)  # what importing the libraries takes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong, whole = run(given.count, given.seed, [given.kind] if given.kind else KINDS)
    print("\n\n".join(wrong))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"{given.count:,} files, of which {whole:,} were read: {len(wrong)} failed otherwise than by a paragraph; "
          f"{grown:.2f} GiB more")  # fmt: skip
    raise SystemExit(bool(wrong) or grown > GIBIBYTES)


if __name__ == "__main__":
    main()
