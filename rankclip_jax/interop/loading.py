"""A model and its weights from any path that people keep them at."""

import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.checkpoints import checksums, workdir
from rankclip_jax.checkpoints.manager import choose_step, read_variables
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable, read_json
from rankclip_jax.input_pipeline.object_stores import is_remote, path_of, sizes_below
from rankclip_jax.interop import files, hugging_face, positions
from rankclip_jax.interop.weight_map import (
    LOGIT_BIAS,
    TensorMapping,
    batch_counters,
    empty,
    hugging_face_map,
    like,
    open_clip_map,
)
from rankclip_jax.models.clip import Clip, Variables, abstract_variables
from rankclip_jax.models.presets import PRESETS, Preset, ResNetPreset
from rankclip_jax.models.transformer import ACTIVATIONS, Execution
from rankclip_jax.settings import resolution as settings
from rankclip_jax.training.experiment import build_experiment

_LOGGER = logging.getLogger(__name__)
_NAMED = 8  # tensors named in an error, of each kind
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # facts that OpenAI's files hold as tensors


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model and its weights, NumPy arrays.

    Args:
      name: of the preset, which ``model.preset`` is but for the image size.
      stated_activation: the one that the source says it was trained with; None: it does not say.
    """

    name: str
    model: Clip
    variables: Variables
    stated_activation: str | None


def read(path: Path, *, step: int | None = None, activation: str | None = None, weights: str = "latest") -> Weights:
    """Reads a workdir, a Hugging Face folder, or a file in the layout of OpenAI, open_clip or the RankCLIP release.

    Args:
      path: the workdir, folder or file.
      step: the checkpoint of a workdir; None: the newest.
      activation: a key of `ACTIVATIONS`; None: what the source says, or CLIP's own where it is silent.
      weights: of a workdir, ``"latest"`` or their moving ``"ema"``.

    Raises:
      UserError: there is nothing of the kind, or its tensors are not a known model's; it names them.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"activation: no {activation!r}; there are {', '.join(ACTIVATIONS)}.")
    _check_is_there(path)
    if not (path / "checkpoints").is_dir() and (step is not None or weights != "latest"):
        raise UserError(f"{path}: not a workdir, so it has neither steps nor an average to choose from.")
    if is_remote(path) and not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: of object stores only workdirs are read. Copy it to a disk.")
    if not path.is_dir():
        found = _read_file(path, activation)
    elif (path / "checkpoints").is_dir():
        found = _read_workdir(path, step, weights)
    elif (path / "config.json").exists():
        found = _read_hugging_face(path)
    else:
        raise UserError(
            f"{path}: neither a workdir (no checkpoints/) nor a Hugging Face folder (no config.json). "
            "For a single file, name the file."
        )
    if activation in (None, found.model.execution.activation):
        return found
    execution = dataclasses.replace(found.model.execution, activation=activation)
    return dataclasses.replace(found, model=found.model.clone(execution=execution))


def _check_is_there(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: nothing there. Expected a workdir, a Hugging Face folder or a file of weights.")


def identify(path: Path, step: int | None = None) -> tuple[int | None, str]:
    """The checkpoint that `read` takes, of a workdir, and a digest that tells these weights from others.

    Args:
      path: as for `read`.
      step: the same.

    Raises:
      UserError: a workdir has no such checkpoint, or a file cannot be read.
    """
    _check_is_there(path)
    content = path
    if (path / "checkpoints").is_dir():
        step = choose_step(path, step)
        saved = path / "checkpoints" / str(step)
        content = saved / checksums.SUMS
    files_of = sorted(content / name for name in sizes_below(content)) if content.is_dir() else [content]
    whole = hashlib.sha256()
    for name in files_of:
        try:
            whole.update(bytes.fromhex(checksums.digest(name)))
        except OSError as error:
            raise UserError(f"{printable(name)}: cannot be read ({error.strerror}). Expected weights.") from error
    return step, whole.hexdigest()


def weights_to_start_from(config: ConfigDict, model: Clip) -> Variables | None:
    """The weights of ``config.init_from`` for the model that is to be trained; None: it starts from nothing.

    Raises:
      UserError: there are no weights, or they are of another model.
    """
    if not config.init_from:
        return None
    path = path_of(config.init_from)
    try:
        weights = read(path, activation=config.model.activation)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    theirs, size = weights.model, model.preset.vision.image_size
    if theirs.preset.with_image_size(size) != model.preset:
        raise UserError(
            f"config.init_from: {path} holds a {weights.name}; the settings describe a {config.model.name}. "
            f"Train that model with --config.model.name={weights.name}, or start from other weights."
        )
    activation = weights.stated_activation or config.model.activation
    if activation != config.model.activation:
        raise UserError(
            f"config.init_from: {path} was trained with {activation}, the settings say {config.model.activation}. "
            f"Add --config.model.activation={activation}"
        )
    if theirs.pooling != model.pooling:
        raise UserError(
            f"config.init_from: {path} pools by its {theirs.pooling}. Add --config.model.pooling={theirs.pooling}"
        )
    for name in ("pixel_mean", "pixel_std"):
        stated, asked = getattr(theirs, name), getattr(model, name)
        if not np.allclose(stated, asked, atol=1e-6):
            raise UserError(
                f"config.init_from: {path} was trained with {name} {stated}, the settings say {asked}. "
                f'Add --config.model.{name}="{stated}"'
            )
    return positions.resize(weights.variables, theirs.preset, size)


def _read_workdir(path: Path, step: int | None, weights: str) -> Weights:
    config = ConfigDict(workdir.read_config(path))
    settings.check_choices(config, "model")
    experiment = build_experiment(config, make_local_mesh())
    if not experiment.knows_method:
        _LOGGER.warning(
            "note: %s was trained with the objective %r, which is not here. Parameters that it learned beside the "
            "model's, if any, are left out; to have them name its recipe, --config RECIPE, or import its module first.",
            path,
            config.objective.name,
        )
    variables = jax.tree.map(np.asarray, read_variables(path, experiment, step, weights))
    return Weights(config.model.name, experiment.model, variables, experiment.model.execution.activation)


def _read_file(path: Path, activation: str | None) -> Weights:
    tensors, metadata = files.read(path)
    if any(name.startswith("text_model.") for name in tensors):
        raise UserError(f"{path}: has Hugging Face's names. Give its folder, which says more: {path.parent}")
    logit_bias = "logit_bias" in tensors
    stated = metadata["activation"] if metadata.get("activation") in ACTIVATIONS else None
    if stated is None and activation is None:
        _LOGGER.warning(
            "%s does not say which activation it was trained with; quick_gelu is taken, as in OpenAI's CLIP and names "
            "with -quickgelu. For open_clip's plain names say activation='gelu' (config.model.activation).",
            path,
        )
    name, preset = _identify(tensors, lambda preset: open_clip_map(preset, logit_bias), PRESETS)
    execution = Execution(activation=activation or stated or "quick_gelu")
    stated_pixels = [name for name in ("pixel_mean", "pixel_std") if name in metadata]
    pixels: Any = {name: _stated_channels(path, metadata, name) for name in stated_pixels}
    model = Clip(preset, execution, **pixels)
    return Weights(name, model, _fill(path, tensors, open_clip_map(preset, logit_bias), model, name), stated)


def _read_hugging_face(path: Path) -> Weights:
    config = hugging_face.resolve(_read_settings(path / "config.json"), path / "config.json")
    parts = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not parts:
        raise UserError(f"{path}: no weights beside config.json. Expected model.safetensors or pytorch_model.bin.")
    tensors: files.Tensors = {}
    for part in parts:
        tensors |= files.read(part)[0]
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    transformers = {name: preset for name, preset in PRESETS.items() if not isinstance(preset.vision, ResNetPreset)}
    name, preset = _identify(tensors, hugging_face_map, transformers)
    activation = hugging_face.check_config(path / "config.json", config, preset)
    pixels: Any = _processor_pixels(path / "preprocessor_config.json")
    model = Clip(preset, Execution(activation=activation), **pixels)
    return Weights(name, model, _fill(path, tensors, hugging_face_map(preset), model, name), activation)


def _processor_pixels(path: Path) -> dict[str, tuple[float, ...]]:
    """The pixel normalisation that an image processor's settings state, where there are any."""
    stated = _read_settings(path) if path.exists() else {}
    if stated.get("do_normalize") is False:
        return {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    names = {"pixel_mean": "image_mean", "pixel_std": "image_std"}
    found = {ours: stated[theirs] for ours, theirs in names.items() if stated.get(theirs) is not None}
    return {name: _channels(path, name, value) for name, value in found.items()}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror}). Expected a file of JSON.") from error


def _stated_channels(path: Path, metadata: dict[str, str], name: str) -> tuple[float, ...]:
    """Three numbers that a safetensors file states in words."""
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError):
        value = metadata[name]
    return _channels(path, name, value)


def _channels(path: Path, name: str, value: object) -> tuple[float, ...]:
    """A mean or a deviation of pixels for each colour.

    Raises:
      UserError: it is not that.
    """
    low = 0.0 if name == "pixel_mean" else 1e-6
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(x) in (int, float) and low <= x <= 1 for x in value)
    ):
        raise UserError(
            f"{printable(path)}: {name}: expected three numbers of at least {low:g} and at most 1; found "
            f"{printable(value, 100)}."
        )
    red, green, blue = map(float, value)
    return red, green, blue


def _identify(
    tensors: files.Tensors, places_of: Callable[[Preset], list[TensorMapping]], presets: dict[str, Preset]
) -> tuple[str, Preset]:
    """The preset that most tensors agree with, made for the file's image size."""
    resnet = any(name.startswith("visual.attnpool.") for name in tensors)

    def disagreements(name: str) -> int:
        places = places_of(presets[name])
        shapes = _shapes_of(presets[name])
        agreeing = sum(
            place.name in tensors and tensors[place.name].shape == place.view(shapes).shape
            for place in places
            if place.path != LOGIT_BIAS
        )
        return len(places) - agreeing + len(tensors.keys() - {place.name for place in places})

    candidates = [name for name in presets if isinstance(presets[name].vision, ResNetPreset) == resnet]
    name = min(candidates, key=disagreements)
    preset = presets[name]
    place = next(
        place for place in places_of(preset) if "vision" in place.path and place.path[-1] == "positional_embedding"
    )
    width = place.view(_shapes_of(preset)).shape[1]
    shape = tensors[place.name].shape if place.name in tensors else ()
    rows = shape[0] if shape[1:] == (width,) else 0
    grid = math.isqrt(max(rows - 1, 0))
    if grid and grid * grid == rows - 1:
        preset = preset.with_image_size(grid * preset.vision.stride)
    return name, preset


@functools.cache
def _shapes_of(preset: Preset) -> Variables:
    return like(abstract_variables(Clip(preset)))


def _fill(path: Path, tensors: files.Tensors, places: list[TensorMapping], model: Clip, name: str) -> Variables:
    """The file's tensors in our arrangement.

    Raises:
      UserError: some are missing, too many or of another shape; it names them.
    """
    shapes = abstract_variables(model)
    if any(place.path == LOGIT_BIAS for place in places):
        shapes["params"]["logit_bias"] = shapes["params"]["logit_scale"]
    expected = like(shapes)
    missing, misshapen = [], []
    for place in places:
        view, tensor = place.view(expected), tensors.get(place.name)
        if tensor is None:
            missing.append(f"{place.name} {view.shape}")
        elif tensor.shape != view.shape:
            misshapen.append(f"{place.name}: expected {view.shape}, found {tensor.shape}")
    known = {place.name for place in places} | set(batch_counters(places)) | _NOT_WEIGHTS
    extra = [f"{printable(other, 100)} {tensors[other].shape}" for other in sorted(tensors.keys() - known)]
    kinds = {"missing": missing, "misshapen": misshapen, "not known": extra}
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise UserError(
            f"{path}: not the weights of a model that is known here. Beside {name}, the nearest, "
            f"{'; '.join(problems)}. There are {', '.join(PRESETS)}."
        )
    variables = empty(shapes)
    for place in places:
        place.view(variables)[...] = tensors[place.name]
    return variables


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
