"""Loading of a model and its weights from a workdir, a Hugging Face folder or a file of weights."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax import objectives
from rankclip_jax.checkpoints import checksums, workdir
from rankclip_jax.checkpoints.manager import choose_step, read_variables
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable, read_json
from rankclip_jax.input_pipeline.object_stores import is_remote, path_of, sizes_below
from rankclip_jax.interop import files, hugging_face
from rankclip_jax.interop.weight_map import LOGIT_BIAS, batch_counters, empty, like, weight_map
from rankclip_jax.models import clip
from rankclip_jax.models.activations import ACTIVATIONS
from rankclip_jax.models.clip import Clip, Variables, abstract_variables
from rankclip_jax.models.encoder import Library, TensorMapping
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.presets import PRESETS, Preset, preset_of
from rankclip_jax.models.settings import ModelSettings
from rankclip_jax.objectives import OBJECTIVES

_LOGGER = logging.getLogger(__name__)
_NAMED = 8  # tensors of each kind that an error names
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # sizes that OpenAI's files store as tensors


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model and its weights as NumPy arrays.

    Args:
      name: the name of the preset; ``model.preset`` may differ from it in the image size.
      model: the model.
      variables: the weights.
      stated_activation: the activation that the source declares; None: not declared.
    """

    name: str
    model: Clip
    variables: Variables
    stated_activation: str | None


def read(
    path: Path,
    *,
    step: int | None = None,
    activation: str | None = None,
    weights: str = "latest",
    expected: tuple[str, Preset] | None = None,
) -> Weights:
    """Reads a workdir, a Hugging Face folder, or a file in the layout of OpenAI, open_clip or the RankCLIP release.

    Args:
      path: the workdir, folder or file.
      step: the checkpoint of a workdir; None: the newest.
      activation: a key of `ACTIVATIONS`; None: the one that the source declares, or else CLIP's.
      weights: ``"latest"`` or ``"ema"`` of a workdir.
      expected: the name and sizes of a model that a file may hold in addition to the presets, such as one with the
        user's own encoder; None: only presets.

    Raises:
      UserError: the path does not exist or is of another kind, or its tensors are not those of a known model.
    """
    if activation is not None and activation not in ACTIVATIONS:
        choices = ", ".join(map(repr, ACTIVATIONS))
        raise UserError(f"activation: unknown value {activation!r}; choose from {choices}.")
    _check_is_there(path)
    if not (path / "checkpoints").is_dir() and (step is not None or weights != "latest"):
        raise UserError(
            f"{path}: step and weights apply only to a workdir; found no checkpoints/ in it. Use a workdir, or remove "
            "these options."
        )
    if is_remote(path) and not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: only workdirs can be read from object stores. Copy the weights to a local disk.")
    if not path.is_dir():
        found = _read_file(path, activation, expected)
    elif (path / "checkpoints").is_dir():
        found = _read_workdir(path, step, weights)
    elif (path / "config.json").exists():
        found = _read_hugging_face(path, expected)
    else:
        raise UserError(
            f"{path}: expected a workdir or a Hugging Face folder; found neither checkpoints/ nor config.json. For a "
            "single file, use the path of the file."
        )
    if activation in (None, found.model.execution.activation):
        return found
    execution = dataclasses.replace(found.model.execution, activation=activation)
    return dataclasses.replace(found, model=found.model.clone(execution=execution))


def _check_is_there(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: not found. Use the path of a workdir, a Hugging Face folder or a file of weights.")


def identify(path: Path, step: int | None = None) -> tuple[int | None, str]:
    """Returns the step of the checkpoint that `read` would load from a workdir, and a digest of the weights.

    Args:
      path: see `read`.
      step: see `read`.

    Raises:
      UserError: the workdir has no such checkpoint, or a file cannot be read.
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
    """Loads the weights of ``config.init_from`` for the model to train; None: random initial weights.

    Raises:
      UserError: the weights do not exist, or are of another model.
    """
    if not config.init_from:
        return None
    path = path_of(config.init_from)
    try:
        expected = (config.model.name, model.preset)
        weights = read(path, activation=model.execution.activation, expected=expected)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    theirs, size = weights.model, model.preset.vision.image_size
    if not _same_weights(theirs.preset.with_image_size(size), model.preset):
        if weights.name == config.model.name and (lines := _differences(theirs.preset, model.preset)):
            raise UserError(
                f"config.init_from: {path} holds a {weights.name} with other sizes: {'; '.join(lines)}. Use the same "
                "sizes, or other weights."
            )
        raise UserError(
            f"config.init_from: expected weights of a {config.model.name}; found a {weights.name} in {path}. "
            f"Use --config.model.name={weights.name}, or other weights."
        )
    activation = weights.stated_activation or model.execution.activation
    if activation != model.execution.activation:
        raise UserError(
            f"config.init_from: expected weights trained with {model.execution.activation}; found {activation} in "
            f"{path}. Use --config.model.activation={activation}"
        )
    for name in ("pixel_mean", "pixel_std"):
        stated, requested = getattr(theirs, name), getattr(model, name)
        if not np.allclose(stated, requested, atol=1e-6):
            raise UserError(
                f"config.init_from: expected weights trained with {name} {requested}; found {stated} in {path}. "
                f'Use --config.model.{name}="{stated}"'
            )
    parameters = weights.variables["params"]
    resized = theirs.preset.vision.resize_positions(parameters["vision"], size)
    return weights.variables | {"params": parameters | {"vision": resized}}


def _differences(theirs: Preset, ours: Preset) -> list[str]:
    """Returns a line for each size or option, except the image size, in which two models' encoders differ."""
    lines = []
    for section, one, other in (("vision", theirs.vision, ours.vision), ("text", theirs.text, ours.text)):
        for name in one.declared().keys() & other.declared().keys() - {"image_size"}:
            if (stored := getattr(one, name)) != (requested := getattr(other, name)):
                lines.append(f"config.model.{section}.{name}: {stored!r} in the weights, {requested!r} in the settings")
    return lines


def _same_weights(one: Preset, other: Preset) -> bool:
    """Returns whether two models have the same parameter shapes; options such as patch dropout do not matter."""
    shapes = [jax.tree.map(lambda leaf: leaf.shape, abstract_variables(Clip(preset))) for preset in (one, other)]
    return type(one.vision) is type(other.vision) and shapes[0] == shapes[1]


def _read_workdir(path: Path, step: int | None, weights: str) -> Weights:
    config = ConfigDict(workdir.read_config(path))
    try:
        model = clip.build(config.model)
    except UserError as error:
        raise UserError(f"--workdir: {printable(path / 'config.json')}: {error}") from error
    objective = objectives.build(config.objective) if config.objective.name in OBJECTIVES else None
    if objective is None:
        _LOGGER.warning(
            "note: %s was trained with the objective %r, whose code is not loaded, so parameters that the objective "
            "learned are not read. To read them, use --config RECIPE with its recipe, or import its module first.",
            path,
            config.objective.name,
        )
    like = objectives.abstract_variables(objective, model)
    read = read_variables(path, Layout(make_local_mesh()), like, step, weights)
    return Weights(config.model.name, model, jax.tree.map(np.asarray, read), model.execution.activation)


def _read_file(path: Path, activation: str | None, expected: tuple[str, Preset] | None) -> Weights:
    tensors, metadata = files.read(path)
    if any(name.startswith("text_model.") for name in tensors):
        raise UserError(
            f"{path}: expected OpenAI's tensor names; found Hugging Face's. Use its folder, which has the settings: "
            f"{path.parent}"
        )
    logit_bias = "logit_bias" in tensors
    stated = metadata["activation"] if metadata.get("activation") in ACTIVATIONS else None
    if stated is None and activation is None:
        _LOGGER.warning(
            "%s does not declare its activation; using quick_gelu, as in OpenAI's CLIP and open_clip's names with "
            "-quickgelu. For open_clip's other names use activation='gelu' (config.model.activation).",
            path,
        )
    name, preset = _stated_preset(path, metadata) or _identify(tensors, "open_clip", expected, logit_bias)
    execution = Execution(activation=activation or stated or "quick_gelu")
    stated_pixels = [name for name in ("pixel_mean", "pixel_std") if name in metadata]
    pixels: Any = {name: _stated_channels(path, metadata, name) for name in stated_pixels}
    model = Clip(preset, execution, **pixels)
    variables = _fill(path, tensors, weight_map(preset, "open_clip", logit_bias), model, name)
    return Weights(name, model, variables, stated)


def _read_hugging_face(path: Path, expected: tuple[str, Preset] | None) -> Weights:
    config = hugging_face.resolve(_read_settings(path / "config.json"), path / "config.json")
    parts = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not parts:
        raise UserError(
            f"{path}: expected model.safetensors or pytorch_model.bin next to config.json; found neither. Download or "
            "export it again."
        )
    tensors: files.Tensors = {}
    for part in parts:
        tensors |= files.read(part)[0]
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    name, preset = _identify(tensors, "hugging_face", expected)
    activation = hugging_face.check_config(path / "config.json", config, preset)
    pixels: Any = _processor_pixels(path / "preprocessor_config.json")
    model = Clip(preset, Execution(activation=activation), **pixels)
    return Weights(name, model, _fill(path, tensors, weight_map(preset, "hugging_face"), model, name), activation)


def _processor_pixels(path: Path) -> dict[str, tuple[float, ...]]:
    """Returns the pixel normalisation that an image processor's settings declare, if any."""
    stated = _read_settings(path) if path.exists() else {}
    if stated.get("do_normalize") is False:
        return {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    names = {"pixel_mean": "image_mean", "pixel_std": "image_std"}
    values = {ours: stated[theirs] for ours, theirs in names.items() if stated.get(theirs) is not None}
    return {name: _channels(path, name, value) for name, value in values.items()}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror}). Expected a JSON file.") from error


def _stated_channels(path: Path, metadata: dict[str, str], name: str) -> tuple[float, ...]:
    """Returns the three numbers that a safetensors file's metadata stores as JSON."""
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError):
        value = metadata[name]
    return _channels(path, name, value)


def _channels(path: Path, name: str, value: object) -> tuple[float, ...]:
    """Returns a pixel mean or standard deviation as three floats.

    Raises:
      UserError: the value is not a valid list of three numbers.
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


def _stated_preset(path: Path, metadata: dict[str, str]) -> tuple[str, Preset] | None:
    """Returns the name and sizes in the metadata of a file that we exported; None: no such metadata.

    Raises:
      UserError: the sizes are invalid, or the encoder's code is not loaded.
    """
    if "sizes" not in metadata:
        return None
    model = ConfigDict({name: setting.default for name, setting in ModelSettings.declared().items()})
    try:
        sizes = json.loads(metadata["sizes"])
        model.update({name: sizes[name] for name in ("embedding_size", "vision", "text")})
        return printable(metadata.get("model", "model"), 100), preset_of(model)
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{printable(path)}: metadata: sizes: not valid model sizes ({printable(error, 200)}). Export it again."
        ) from error


def _identify(
    tensors: files.Tensors, library: Library, expected: tuple[str, Preset] | None, logit_bias: bool = False
) -> tuple[str, Preset]:
    """Returns the preset or expected model that matches the most tensors, adapted to the file's image size."""
    candidates, maps = [*PRESETS.items(), *([expected] if expected else [])], {}
    for number, (_, preset) in enumerate(candidates):
        with contextlib.suppress(UserError):  # the library has no equivalent model
            maps[number] = weight_map(preset, library, logit_bias)

    def disagreements(number: int) -> int:
        mappings, shapes = maps[number], _shapes_of(candidates[number][1])
        agreeing = sum(
            mapping.name in tensors and tensors[mapping.name].shape == mapping.view(shapes).shape
            for mapping in mappings
            if mapping.path != LOGIT_BIAS
        )
        return len(mappings) - agreeing + len(tensors.keys() - {mapping.name for mapping in mappings})

    best = min(maps, key=disagreements)
    name, preset = candidates[best]
    grid = _grid_side(tensors, maps[best], preset)
    return name, preset.with_image_size(grid * preset.vision.stride) if grid else preset


def _grid_side(tensors: files.Tensors, mappings: list[TensorMapping], preset: Preset) -> int:
    """Returns the side of the grid of a file's position embeddings; 0: unknown."""
    for mapping in mappings:
        if mapping.path[1] != "vision" or mapping.path[-1] != "positional_embedding" or mapping.name not in tensors:
            continue
        rows, *rest = tensors[mapping.name].shape or (0,)
        side = math.isqrt(max(rows - 1, 0))
        if rest == list(mapping.view(_shapes_of(preset)).shape[1:]) and side * side == rows - 1:
            return side
    return 0


@functools.cache
def _shapes_of(preset: Preset) -> Variables:
    return like(abstract_variables(Clip(preset)))


def _fill(path: Path, tensors: files.Tensors, mappings: list[TensorMapping], model: Clip, name: str) -> Variables:
    """Converts the file's tensors to our variables.

    Raises:
      UserError: tensors are missing, unknown or of another shape; the message names them.
    """
    shapes = abstract_variables(model)
    if any(mapping.path == LOGIT_BIAS for mapping in mappings):
        shapes["params"]["logit_bias"] = shapes["params"]["logit_scale"]
    expected = like(shapes)
    missing, misshapen = [], []
    for mapping in mappings:
        view, tensor = mapping.view(expected), tensors.get(mapping.name)
        if tensor is None:
            missing.append(f"{mapping.name} {view.shape}")
        elif tensor.shape != view.shape:
            misshapen.append(f"{mapping.name}: expected {view.shape}, found {tensor.shape}")
    allowed = {mapping.name for mapping in mappings} | set(batch_counters(mappings)) | _NOT_WEIGHTS
    extra = [f"{printable(other, 100)} {tensors[other].shape}" for other in sorted(tensors.keys() - allowed)]
    kinds = {"missing": missing, "of another shape": misshapen, "unknown": extra}
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise UserError(
            f"{path}: expected the weights of a supported model ({', '.join(PRESETS)}); found tensors that differ from "
            f"the most similar one, {name}: {'; '.join(problems)}."
        )
    variables = empty(shapes)
    for mapping in mappings:
        mapping.view(variables)[...] = tensors[mapping.name]
    return variables


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
