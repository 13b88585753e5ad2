"""Weights from and to the PyTorch libraries, compared with what those compute themselves."""

import contextlib
import dataclasses
import json
import os
import pickle
import socket
import struct
import subprocess
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

import rankclip_jax
from configs import demo
from rankclip_jax.cli.entry import EXIT_ON_USER_ERROR
from rankclip_jax.evaluation.zero_shot import class_embeddings
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.scenes import Scenes
from rankclip_jax.input_pipeline.tokenizer import tokenize
from rankclip_jax.interop import files, hugging_face, loading
from rankclip_jax.interop import open_clip as open_clip_files
from rankclip_jax.models import clip
from rankclip_jax.models.clip import Clip, init_variables, normalise
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from tests.interop.conftest import make_run

ROOT = Path(__file__).parent.parent.parent
TEXTS = ["a photo of a dog", "two cats, it's late", "", "naïve café 東京 🎨", "word " * 100]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries compared with


# Heads of 64, as in all of CLIP's models, but seconds to compile.
SMALL = Preset(96, VisionTransformerConfig(64, 16, 128, 2, 2), TextTransformerConfig(width=128, layers=2, heads=2))


def pixels_of(size, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def as_torch(torch, images):
    return torch.tensor(np.asarray(normalise(images)).transpose(0, 3, 1, 2))


def assert_same_embeddings(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.sum(one * np.asarray(other), axis=1).min() > 1 - 1e-6


def same_variables(first, second):
    return jax.tree.structure(first) == jax.tree.structure(second) and jax.tree.all(
        jax.tree.map(np.array_equal, first, second)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-S-16", "RN50-quickgelu"])
def test_open_clips_models_compute_the_same_here_and_go_back_unchanged(name, open_clip, torch, tmp_path):
    theirs = open_clip.create_model(name).eval()
    for part in theirs.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # as after training: nothing at its start
            for values, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2), (part.weight, 0.5, 1)):
                values.data.uniform_(low, high)
    container = {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}
    torch.save(container, tmp_path / "epoch_1.pt")
    encoder = rankclip_jax.load(tmp_path / "epoch_1.pt", activation="quick_gelu" if "quick" in name else "gelu")
    images = pixels_of(224)
    with torch.no_grad():
        expected = (
            theirs.encode_image(as_torch(torch, images), normalize=True).numpy(),
            theirs.encode_text(torch.tensor(tokenize(TEXTS)).long(), normalize=True).numpy(),
        )
    assert_same_embeddings((encoder.encode_image(list(images)), encoder.encode_text(TEXTS)), expected)
    weights = loading.read(tmp_path / "epoch_1.pt")
    back = open_clip_files.state_dict(weights.model, weights.variables)
    for key, value in theirs.state_dict().items():
        assert np.array_equal(back.pop(key), value.numpy()), key
    assert not back


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hugging_faces_models_compute_the_same_here(activation, transformers, torch, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", SMALL)
    tower = {"num_attention_heads": 2, "hidden_size": 128, "intermediate_size": 512, "hidden_act": activation,
             "num_hidden_layers": 2}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=tower, vision_config=tower | {"patch_size": 16, "image_size": 64}, projection_dim=96
    )
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path / "model")
    encoder = rankclip_jax.load(tmp_path / "model")
    images = pixels_of(64)
    with torch.no_grad():
        outputs = theirs(input_ids=torch.tensor(tokenize(TEXTS)).long(), pixel_values=as_torch(torch, images))
    expected = outputs.image_embeds.numpy(), outputs.text_embeds.numpy()
    assert_same_embeddings((encoder.encode_image(list(images)), encoder.encode_text(TEXTS)), expected)


@pytest.fixture
def export(capsys):
    """The command, in this process: what it says, with exit status 0, or its paragraph with another."""
    from rankclip_jax import export as command

    def run(folder, form, output, *more, status=0):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["export", f"--workdir={folder}", f"--format={form}", f"--output={output}", *more])
        found = 0
        try:
            with EXIT_ON_USER_ERROR:
                command.main()
        except SystemExit as stopped:
            found = stopped.code
        said = capsys.readouterr()
        assert found == status, said
        return said.err if status else said.out

    return run


@pytest.mark.parametrize(
    ("form", "output"), [("open_clip", "x.safetensors"), ("hugging_face", "x"), ("rankclip", "x.pt")]
)
def test_exports_are_read_back_and_return_bit_for_bit(
    form, output, run_folder, open_clip, transformers, tmp_path, export
):
    said = export(run_folder, form, tmp_path / output)
    assert "Verified in PyTorch: embeddings differ by at most" in said
    assert same_variables(loading.read(tmp_path / output).variables, loading.read(run_folder).variables)
    assert not list(tmp_path.glob(".export*"))
    assert "already exists, and export never overwrites" in export(run_folder, form, tmp_path / output, status=2)
    mask = os.umask(0)
    os.umask(mask)
    for path in tmp_path.rglob("*"):  # whoever may read the user's other files may read these
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_the_demos_model_classifies_every_image_alike_in_open_clip(run_folder, open_clip, torch, tmp_path, export):
    said = export(run_folder, "open_clip", tmp_path / "demo.safetensors")
    line = said.splitlines()[-1]
    assert line.startswith("open_clip.add_model_config(")
    scope = {"open_clip": open_clip}
    exec(line, scope)  # the line to paste
    model, preprocess = scope["model"].eval(), scope["preprocess"]
    tokens = open_clip.get_tokenizer("rankclip-ViT-demo")
    scenes = Scenes("validation", 128, 32)
    images = [Image.fromarray(scenes[index]["image"]) for index in range(len(scenes))]

    def encode_texts(texts):
        return model.encode_text(tokens(texts), normalize=True).numpy()

    with torch.no_grad():
        theirs = model.encode_image(torch.stack([preprocess(image) for image in images]), normalize=True).numpy()
        their_classes = class_embeddings(encode_texts, scenes.truth.classes.prompts)
    encoder = rankclip_jax.load(run_folder)
    our_classes = class_embeddings(encoder.encode_text, scenes.truth.classes.prompts)
    ours = encoder.encode_image(images)
    assert np.array_equal((ours @ our_classes.T).argmax(1), (theirs @ their_classes.T).argmax(1))


def test_hugging_faces_processor_gives_the_same_ids_and_nearly_the_same_pixels(
    run_folder, transformers, tmp_path, export
):
    export(run_folder, "hugging_face", tmp_path / "x")
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "x")
    texts = ["a red circle.", "It's two cats, naïve café", "word " * 100]
    batch = processor(text=texts, images=Image.fromarray(pixels_of(32)[0]), padding="max_length", truncation=True,
                      return_tensors="np")  # fmt: skip
    ours = tokenize(texts, 24)
    assert np.array_equal(np.where(np.arange(24) <= ours.argmax(1)[:, None], batch["input_ids"], 0), ours)
    expected = np.asarray(normalise(pixels_of(32)[:1])).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["pixel_values"], expected, atol=1e-5)


def test_resnets_have_no_place_in_hugging_faces_layout(tmp_path):
    with pytest.raises(UserError, match=r"supports no ResNets\. Use --format open_clip"):
        hugging_face.write(tmp_path / "x", Clip(PRESETS["RN50"]), {})
    assert not (tmp_path / "x").exists()


def test_exports_that_cannot_be_are_refused(run_folder, tmp_path, export):
    assert "choose from open_clip, hugging_face, rankclip" in export(run_folder, "torch", tmp_path / "x.pt", status=2)
    assert "ends in .safetensors" in export(run_folder, "open_clip", tmp_path / "x.pt", status=2)
    assert "none: not found. Use the path of" in export(
        tmp_path / "none", "open_clip", tmp_path / "x.safetensors", status=2
    )
    assert "is a folder; expected a file. Use a file name" in export(run_folder, "open_clip", tmp_path, status=2)
    assert "rm -r" not in export(run_folder, "hugging_face", ".", status=2)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in export(run_folder, "open_clip", tmp_path / "file" / "x.safetensors", status=2)
    assert "cannot be written" in export(run_folder, "hugging_face", "/proc/x", status=2)
    assert "--output: empty" in export(run_folder, "open_clip", "", status=2)
    assert "--workdir: empty" in export("", "open_clip", tmp_path / "x.safetensors", status=2)
    assert "no checkpoint of step 3" in export(
        run_folder, "open_clip", tmp_path / "x.safetensors", "--step=3", status=2
    )
    assert "no EMA" in export(run_folder, "open_clip", tmp_path / "a/x.safetensors", "--weights=ema", status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pixel_normalisation_goes_along_and_comes_back(export, transformers, open_clip, tmp_path):
    half = (0.5, 0.5, 0.5)
    folder = make_run(tmp_path / "run", pixel_mean=half, pixel_std=half)
    for form, output in (("open_clip", "x.safetensors"), ("hugging_face", "x")):
        assert "Verified in PyTorch" in export(folder, form, tmp_path / output)
        model = loading.read(tmp_path / output).model
        assert (model.pixel_mean, model.pixel_std) == (half, half)
    assert "supports only CLIP's pixel normalisation" in export(folder, "rankclip", tmp_path / "x.pt", status=2)


def test_a_tower_that_pools_its_patches_is_in_no_other_layout(tmp_path):
    demo_preset = PRESETS["ViT-demo"]
    model = Clip(dataclasses.replace(demo_preset, vision=dataclasses.replace(demo_preset.vision, pooling="mean")))
    for write in (lambda: hugging_face.write(tmp_path / "x", model, {}),
                  lambda: open_clip_files.call_for("ViT-demo", model, {"params": {}})):  # fmt: skip
        with pytest.raises(UserError, match=r"config\.model\.vision\.pooling=mean.*rankclip_jax\.load"):
            write()


@pytest.mark.parametrize("name", ["x.png", "x", "x.txt"])
def test_a_file_that_is_none_of_weights_is_told_by_its_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"expected a file of weights that ends in \.safetensors"):
        rankclip_jax.load(tmp_path / name)
    with pytest.raises(ValueError, match="expected weights latest or ema"):
        rankclip_jax.load(tmp_path / name, weights="newest")


def test_what_the_release_cannot_compute_is_not_exported_for_it(torch, tmp_path, export):
    folder = make_run(tmp_path / "run", "siglip", activation="gelu")
    assert "QuickGELU without a learned bias; found gelu with" in export(
        folder, "rankclip", tmp_path / "x.pt", status=2
    )
    said = export(folder, "open_clip", tmp_path / "x.safetensors")
    assert "Verified in PyTorch" in said or "Not verified" in said
    weights = loading.read(tmp_path / "x.safetensors")
    assert weights.model.execution.activation == "gelu"
    assert same_variables(weights.variables, loading.read(folder).variables)


@pytest.fixture(scope="module")
def demo_tensors(run_folder):
    weights = loading.read(run_folder)
    return open_clip_files.state_dict(weights.model, weights.variables)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("ln_final.bias"), r"1 missing: ln_final.bias \(128,\)"),
        (lambda tensors: tensors.update(extra=np.zeros(3)), r"1 unknown: extra \(3,\)"),
        (lambda tensors: tensors.update(text_projection=np.zeros((128, 127))),
         r"1 of another shape: text_projection: expected \(128, 128\), found \(128, 127\)"),
        (lambda tensors: tensors.update({"visual.positional_embedding": np.zeros((18, 128))}),
         r"1 of another shape: visual.positional_embedding: expected \(17, 128\), found \(18, 128\)"),
    ],
    ids=["missing", "extra", "misshapen", "no grid"],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(change, said, demo_tensors, tmp_path):
    tensors = dict(demo_tensors)
    change(tensors)
    files.write(tmp_path / "x.safetensors", tensors, {})
    with pytest.raises(UserError, match=f"x.safetensors: .* differ from the most similar one, ViT-demo: {said}"):
        loading.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_forward_module.", "model.", "module._orig_mod.",
                                    "_orig_mod.module.", "model.module.model.", "module.module.",
                                    "model._orig_mod.text.", "text."])  # fmt: skip
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_names_may_have_what_wrappers_put_before_them(prefix, suffix, demo_tensors, run_folder, torch, tmp_path):
    tensors = {}
    for name, tensor in demo_tensors.items():  # of the text tower alone, as in open_clip's CustomTextCLIP
        of_text = name.startswith(("transformer.", "token_", "positional_", "ln_final", "text_projection"))
        tensors[(prefix if of_text else prefix.replace("text.", "")) + name] = tensor
    path = tmp_path / f"x.{suffix}"
    if suffix == "pt":
        torch.save({name: torch.tensor(tensor) for name, tensor in tensors.items()}, path)
    else:
        files.write(path, tensors, {})
    assert same_variables(loading.read(path).variables, loading.read(run_folder).variables)


def test_wrappers_of_parts_and_of_all_come_off_together(demo_tensors, run_folder, tmp_path):
    tensors = {f"module.{name.replace('visual.', 'visual._orig_mod.')}": value for name, value in demo_tensors.items()}
    files.write(tmp_path / "x.safetensors", tensors, {})
    assert same_variables(loading.read(tmp_path / "x.safetensors").variables, loading.read(run_folder).variables)
    files.write(tmp_path / "two.safetensors", demo_tensors | tensors, {})
    with pytest.raises(UserError, match=r"expected the weights of one model; found several: .* are both"):
        loading.read(tmp_path / "two.safetensors")


def test_the_names_of_open_clips_custom_text_models_are_read(open_clip, torch, tmp_path, monkeypatch):
    """By the library's own class: its names, and embeddings of what it saves."""
    monkeypatch.setitem(PRESETS, "small", SMALL)
    tower = {"width": 128, "layers": 2}
    theirs = open_clip.CustomTextCLIP(
        embed_dim=96,
        vision_cfg=tower | {"image_size": 64, "patch_size": 16, "head_width": 64},
        text_cfg=tower | {"heads": 2},
    ).eval()
    torch.save({"epoch": 1, "state_dict": {f"module.{name}": x for name, x in theirs.state_dict().items()}},
               tmp_path / "x.pt")  # fmt: skip
    encoder = rankclip_jax.load(tmp_path / "x.pt", activation="gelu")
    images = pixels_of(64)
    with torch.no_grad():
        expected = (
            theirs.encode_image(as_torch(torch, images), normalize=True).numpy(),
            theirs.encode_text(torch.tensor(tokenize(TEXTS)).long(), normalize=True).numpy(),
        )
    assert_same_embeddings((encoder.encode_image(list(images)), encoder.encode_text(TEXTS)), expected)


@pytest.mark.parametrize("container", [("model",), ("state_dict",), ("state",), ("model_state_dict",), ("module",),
                                       ("state", "model"), ("state", "model", "state_dict")])  # fmt: skip
def test_weights_are_taken_out_of_what_trainers_save(container, demo_tensors, run_folder, torch, tmp_path):
    content = {f"module.{name}": torch.tensor(tensor) for name, tensor in demo_tensors.items()}
    for name in reversed(container):
        content = {name: content, "epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}, "groups": [1]}}
    torch.save(content, tmp_path / "x.pt")
    assert same_variables(loading.read(tmp_path / "x.pt").variables, loading.read(run_folder).variables)


def write_header(path, header, data=b""):
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "C64", "F4", "X9"])
def test_types_that_no_weights_have_are_refused(dtype, tmp_path):
    size = 8 if dtype == "C64" else 1
    write_header(tmp_path / "x.safetensors", {"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}},
                 bytes(4 * size))  # fmt: skip
    with pytest.raises(UserError, match=rf"x\.safetensors: .*({dtype}|invalid)"):
        loading.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_halves_and_doubles_are_read_as_single_floats(dtype, suffix, demo_tensors, torch, tmp_path):
    from safetensors.torch import save_file

    tensors = {name: torch.tensor(value).to(getattr(torch, dtype)).contiguous() for name, value in demo_tensors.items()}
    (torch.save if suffix == "pt" else save_file)(tensors, tmp_path / f"x.{suffix}")
    found = loading.read(tmp_path / f"x.{suffix}").variables["params"]["text"]["projection"]["kernel"]
    assert np.array_equal(found, tensors["text_projection"].float().numpy())


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("header", [
    {"a": ENTRY, "b": ENTRY}, {"a": ENTRY | {"data_offsets": [8, 16]}}, {"a": ENTRY | {"shape": [-2]}},
    {"a": ENTRY | {"shape": [2**62, 8]}}, {"a": ENTRY | {"data_offsets": [0, 2**60]}},
    {"a": ENTRY | {"shape": [1] * 70}}, {"a": ENTRY | {"shape": "2"}}, {"a": 3}, [],
    {"__metadata__": {"a": 3}, "a": ENTRY},
    {f"t{n}": ENTRY | {"shape": [0], "data_offsets": [0, 0]} for n in range(20_001)},
    {"visual.positional_embedding": ENTRY | {"shape": [100_000_001, 0], "data_offsets": [0, 0]}},
], ids=range(12))  # fmt: skip
def test_headers_that_lie_are_refused_before_memory_is_asked_for(header, tmp_path, monkeypatch):
    empty = isinstance(header, dict) and all("[0, 0]" in str(entry) for entry in header.values())
    write_header(tmp_path / "x.safetensors", header, b"" if empty else bytes(8))
    monkeypatch.setattr(loading, "empty", None)  # which alone asks for the memory of a model
    with pytest.raises(UserError, match=r"x\.safetensors"):
        loading.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shape", [(100_000_001, 128), (100_000_001, 1)])
def test_position_embeddings_of_an_absurd_grid_take_no_memory(shape, demo_tensors, torch, tmp_path, monkeypatch):
    """48 GiB were asked for: a shape alone, as of a tensor that repeats one number, is no size."""
    tensors = {name: torch.tensor(value) for name, value in demo_tensors.items()}
    tensors["visual.positional_embedding"] = torch.zeros(1).as_strided(shape, (0, 0))
    torch.save(tensors, tmp_path / "x.pt")
    monkeypatch.setattr(loading, "empty", None)
    with pytest.raises(UserError, match="fewer values than the tensor"):
        loading.read(tmp_path / "x.pt")


def test_archives_that_pytorch_does_not_write_are_refused(torch, tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as archive,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(UserError, match="found compressed parts"):
        loading.read(tmp_path / "bomb.pt")
    torch.save({"a": torch.zeros(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"a": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "complex.pt")
    torch.save({"a": torch.zeros(3).to(torch.float8_e4m3fn)}, tmp_path / "float8.pt")
    torch.save({"a": torch.zeros(3, device="meta")}, tmp_path / "meta.pt")
    for name in ("sparse", "complex", "float8", "meta"):
        with pytest.raises(UserError, match=rf"{name}\.pt: a: expected floats"):
            loading.read(tmp_path / f"{name}.pt")


def make_special(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)


@pytest.mark.timeout(60)  # what opens a pipe waits for ever
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_is_refused_wherever_weights_are_read(kind, run_folder, tmp_path):
    config = demo.get_config()
    for name in ("x.safetensors", "x.pt", "x"):
        make_special(tmp_path / name, kind)
        config.init_from = str(tmp_path / name)
        for use in (rankclip_jax.load, lambda path: loading.weights_to_start_from(config, clip.build(config.model))):
            with pytest.raises(UserError, match=f"{name}: "):
                use(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            loading.identify(tmp_path / name)
    weights = loading.read(run_folder)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        folder = tmp_path / f"folder-{name}"
        hugging_face.write(folder, weights.model, weights.variables)
        (folder / name).unlink()
        make_special(folder / name, kind)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            loading.read(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


FORMS = [("open_clip", "x.safetensors"), ("hugging_face", "x"), ("rankclip", "x.pt")]


@pytest.mark.parametrize(("form", "output"), FORMS)
def test_a_full_disk_is_said_in_a_paragraph_and_nothing_is_left(form, output, run_folder, torch, small_disk, export):
    said = export(run_folder, form, small_disk / "new" / output, status=2)
    assert f"--output: {small_disk / 'new' / output} cannot be written (No space left on device)" in said
    assert len(said.splitlines()) == 1
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize(("form", "output"), FORMS)
def test_a_disk_that_fills_up_in_the_middle_is_said_too(form, output, run_folder, torch, tmp_path, export, monkeypatch):
    """At the very file that a library of its own writes, with what these libraries raise then."""
    import safetensors

    def full(*arguments):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def full_archive(content, file):
        file.write(b"x")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598")

    monkeypatch.setattr(files, "save_file", full)
    monkeypatch.setattr(torch, "save", full_archive)
    said = export(run_folder, form, tmp_path / output, status=2)
    assert "cannot be written (" in said
    assert "unexpected pos" in said if form == "rankclip" else "No space left on device" in said
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused(torch, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(struct.pack("<Q", 1000) + b'{"a')
    (tmp_path / "noise.pt").write_bytes(b"noise" * 100)
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    for name, said in {
        "cut.safetensors": "damaged safetensors file", "noise.pt": "(refused|damaged PyTorch file)",
        "empty.pt": "damaged PyTorch file", "list.pt": "expected a state_dict.*found a list",
        "nothing.pt": "found no tensors", "absent.pt": "not found", ".": "expected a workdir or a Hugging Face folder",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=said):
            rankclip_jax.load(tmp_path / name)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(torch, tmp_path):
    touched = tmp_path / "touched"
    torch.save({"state_dict": Malicious(touched)}, tmp_path / "archive.pt")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Malicious(touched)))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    for name, said in {
        "archive.pt": "could run code",
        "bare.bin": "could run code",
        "script.pt": "TorchScript",
    }.items():
        with pytest.raises(UserError, match=f"{name}: refused.*{said}"):
            rankclip_jax.load(tmp_path / name)
    assert not touched.exists()


def test_a_hugging_face_folder_that_is_computed_otherwise_is_refused(run_folder, tmp_path):
    weights = loading.read(run_folder)
    hugging_face.write(tmp_path / "x", weights.model, weights.variables)
    path = tmp_path / "x" / "config.json"
    config = json.loads(path.read_text())
    for change, said in (
        ({"model_type": "siglip"}, "found 'siglip'"),
        ({"vision_config": config["vision_config"] | {"num_attention_heads": 4}}, "only 2 is supported; found 4"),
        ({"text_config": config["text_config"] | {"hidden_act": "relu"}}, "found quick_gelu, relu"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=said):
            loading.read(tmp_path / "x")


@pytest.mark.parametrize(("name", "size"), [("ViT-B-32", 320), ("ViT-B-32", 96), ("RN50", 288)])
def test_position_embeddings_resize_as_open_clips_do(name, size, open_clip, torch):
    from open_clip.model import resize_pos_embed

    preset = PRESETS[name]
    stride, channels = preset.vision.stride, 2048 if name == "RN50" else 768
    old = np.random.default_rng(0).normal(size=((224 // stride) ** 2 + 1, channels)).astype(np.float32)
    holder = {"positional_embedding": old}
    tower = {"attention_pool": holder} if name == "RN50" else holder
    resized = preset.vision.resize_positions(tower, size)
    ours = (resized["attention_pool"] if name == "RN50" else resized)["positional_embedding"]

    class Visual:
        grid_size = (size // stride, size // stride)

    class Model:
        visual = Visual()

    theirs = {"visual.positional_embedding": torch.tensor(old)}
    resize_pos_embed(theirs, Model())
    np.testing.assert_allclose(ours, theirs["visual.positional_embedding"].numpy(), atol=1e-5)


def test_training_starts_from_files_and_folders_only_where_they_agree_with_the_settings(run_folder, tmp_path):
    weights = loading.read(run_folder)
    files.write(
        tmp_path / "silent.safetensors", open_clip_files.state_dict(weights.model, weights.variables), {"format": "pt"}
    )
    open_clip_files.write(tmp_path / "x.safetensors", "ViT-demo", weights.model, weights.variables)
    hugging_face.write(tmp_path / "folder", weights.model, weights.variables)
    config = demo.get_config()
    for name in ("silent.safetensors", "x.safetensors", "folder"):
        config.init_from = str(tmp_path / name)
        assert same_variables(loading.weights_to_start_from(config, clip.build(config.model)), weights.variables)
    config.model.activation = "gelu"
    model = clip.build(config.model)
    for name in ("x.safetensors", "folder"):
        config.init_from = str(tmp_path / name)
        with pytest.raises(
            UserError, match=r"expected weights trained with gelu; found quick_gelu in .*\. Use --config"
        ):
            loading.weights_to_start_from(config, model)
    config.init_from = str(tmp_path / "silent.safetensors")  # does not say, so the settings are believed
    assert same_variables(loading.weights_to_start_from(config, model), weights.variables)


def test_a_file_for_another_image_size_is_loaded_as_such(tmp_path):
    model = Clip(PRESETS["ViT-demo"].with_image_size(48), Execution())
    variables = jax.jit(lambda key: init_variables(model, key))(jax.random.key(0))
    files.write(tmp_path / "x.safetensors", open_clip_files.state_dict(model, variables), {"activation": "quick_gelu"})
    weights = loading.read(tmp_path / "x.safetensors")
    assert weights.model.preset == model.preset
    assert same_variables(weights.variables, jax.tree.map(np.asarray, variables))
