"""An encoder of one's own in one file: open_clip's weights both ways, a JSON of open_clip's, training and export."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rankclip_jax.interop import files
from tests.commands import ROOT, environment

SIZES = {
    "embed_dim": 64,
    "vision_cfg": {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
                   "timm_proj": "linear", "image_size": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}  # fmt: skip
READ = """
import sys
import numpy as np
import tests.own_parts.convnext, rankclip_jax
images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
model = rankclip_jax.load(sys.argv[1])
np.savez("found.npz", images=images, image=model.encode_image(list(images)), text=model.encode_text(["a cat", "x"]))
"""


def start(folder, *words):
    environ = environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries compared with
def test_a_convnext_has_open_clips_weights_both_ways(tmp_path, open_clip, torch):
    (tmp_path / "small-convnext.json").write_text(json.dumps(SIZES))
    open_clip.add_model_config(tmp_path / "small-convnext.json")
    torch.manual_seed(0)
    model = open_clip.create_model("small-convnext").eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith(("gamma", "bias")):  # which start so small that they would hide a fault
                value.copy_(torch.randn_like(value) / 4)
    files.write(tmp_path / "small.safetensors", {name: x.numpy() for name, x in model.state_dict().items()
                                                 if name != "attn_mask"}, {"format": "pt"})  # fmt: skip
    settings = {
        "model.name": "small-convnext.json", "model.vision.family": "tests.own_parts.convnext:ConvNext",
        "init_from": "small.safetensors", "optimizer.learning_rate": 1e-30, "train.steps": 1,
        "train.global_batch_size": 16, "data.validation_examples": 32, "data.workers": 0,
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    said = start(tmp_path, "-m", "rankclip_jax.train", "--config", "demo", *flags, "--workdir", "run")
    assert "64 x 64 pixels" in said
    start(tmp_path, "-c", READ, "run")
    found = np.load(tmp_path / "found.npz")

    def theirs(model):
        mean, std = (np.asarray(x, np.float32) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
        pixels = torch.tensor((found["images"] / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
        tokens = open_clip.get_tokenizer("small-convnext")(["a cat", "x"])
        with torch.no_grad():
            return model.encode_image(pixels, normalize=True).numpy(), model.encode_text(tokens, normalize=True).numpy()

    for ours, expected in zip((found["image"], found["text"]), theirs(model), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)

    recipe = "from rankclip_jax.recipes import base\nimport tests.own_parts.convnext\ndef get_config(): return base()\n"
    (tmp_path / "mine.py").write_text(recipe)
    start(tmp_path, "-m", "rankclip_jax.export", "--config", "mine.py", "--workdir", "run", "--format", "open_clip",
          "--output", "out.safetensors")  # fmt: skip
    (config,) = tmp_path.glob("rankclip-*.json")
    open_clip.add_model_config(config)
    back = open_clip.create_model(config.stem, pretrained=str(tmp_path / "out.safetensors")).eval()
    for ours, expected in zip(theirs(back), theirs(model), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
