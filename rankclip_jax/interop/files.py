"""Tensors in files: safetensors, and PyTorch's archives without anything in them that could run."""

import errno
import os
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives NumPy the type bfloat16
import numpy as np
import safetensors
from safetensors.numpy import save_file

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import open_regular, printable

Tensors = dict[str, np.ndarray]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")  # of safetensors
_MOST_TENSORS = 20_000  # the largest preset has about a thousand
_MOST_AXES = 8
# Parts of names that wrappers add: torch.compile, DataParallel and DeepSpeed, PyTorch Lightning, FSDP.
_WRAPPERS = {"_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CONTAINERS = ("state_dict", "model_state_dict", "model", "state", "module")  # what checkpoints call their weights
_DEEPEST = 4  # containers in containers


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a file, floating ones as float32, and what the file says of itself.

    Weights are taken out of a PyTorch checkpoint (see `_CONTAINERS`), and names are those of the model alone: see
    `plain_name`.

    Raises:
      UserError: the file is no such file, is damaged, or holds code.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a file of weights by its name. Expected one that ends in {', '.join(SUFFIXES)}.")
    try:
        open_regular(path).close()
    except OSError as error:
        words = f"{path}: cannot be read ({error.strerror}). Expected a file of weights: {', '.join(SUFFIXES)}."
        raise UserError(words) from error
    tensors, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_torch_archive(path), {})
    if not tensors:
        raise UserError(f"{path}: holds no tensors. Expected the weights of a CLIP model.")
    return _with_plain_names(path, tensors), metadata


def plain_name(name: str) -> str:
    """A tensor's name in the model itself, without what wrappers put before it or between.

    A leading ``model.`` is a wrapper's too; a leading ``text.`` is of open_clip's ``CustomTextCLIP``, whose text tower
    is a module of its own.

    >>> plain_name("module._orig_mod.model.text.transformer.resblocks.0.ln_1.weight")
    'transformer.resblocks.0.ln_1.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["model"]:
        parts = parts[1:]
    return ".".join(parts[1:] if parts[:1] == ["text"] else parts)


def _with_plain_names(path: Path, tensors: Tensors) -> Tensors:
    found: dict[str, str] = {}
    for name in tensors:
        if (first := found.setdefault(plain_name(name), name)) != name:
            raise UserError(
                f"{path}: holds two models or more: {printable(first)} and {printable(name)} are both "
                f"{printable(plain_name(name))}. Save the weights of one alone."
            )
    return {plain: tensors[name] for plain, name in found.items()}


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes safetensors, readable by whom the user's other files are.

    Raises:
      OSError: it cannot be written.
    """
    try:
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, metadata)
    except safetensors.SafetensorError as error:
        raise _as_os_error(error, path) from error
    give_usual_mode(path)


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Writes a PyTorch file.

    Raises:
      OSError: it cannot be written.
    """
    torch = import_torch(f"{path}: writing it")
    try:
        with path.open("wb") as file:  # whose own errors say why; PyTorch's speak of positions
            torch.save(content, file)
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        raise (cause if isinstance(cause, OSError) else _as_os_error(error, path)) from error


def _as_os_error(error: Exception, path: Path) -> OSError:
    """What a library means by an error of its own in writing a file."""
    words = str(error)
    number = re.search(r"os error (\d+)", words)
    reason = os.strerror(int(number[1])) if number else f"{type(error).__name__}: {words.splitlines()[0][:200]}"
    return OSError(int(number[1]) if number else errno.EIO, reason, str(path))


def give_usual_mode(path: Path) -> None:
    """Gives a file that was made for its owner alone the permissions that new files of this user have."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # which checks that sizes and offsets are true
            names = list(file.keys())
            _check_count(path, len(names))
            for name in names:
                tensor = file.get_slice(name)
                _check_form(path, name, tensor.get_dtype(), tensor.get_shape(), tensor.get_dtype() in _TYPES)
            return {name: _as_float32(file.get_tensor(name)) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({printable(error)}). Fetch or export it again."
        ) from error


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise UserError(f"{path}: holds {count:,} tensors; expected at most {_MOST_TENSORS:,}.")


def _check_form(path: Path, name: str, dtype: str, shape: Any, known: bool) -> None:
    """Raises UserError for a tensor that no model's weights have."""
    if not known:
        raise UserError(
            f"{path}: {printable(name)}: expected floats of 16, 32 or 64 bits, or whole numbers; found {dtype}. "
            "Convert the weights to float32, and save them again."
        )
    if len(shape) > _MOST_AXES or (0 in shape and len(shape) > 1):
        found = printable(list(shape), 100)
        raise UserError(f"{path}: {printable(name)}: expected a tensor of some numbers; found the shape {found}.")


def _torch_archive(path: Path) -> Tensors:
    torch = import_torch(f"{path}: reading it")
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise UserError(
            f"{path}: refused, since it holds more than tensors, and reading that could run code from the file. "
            f"{printable(reason.strip())} Where you trust it, save its weights alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of every kind, as what a damaged pickle does
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: refused, since it is a TorchScript archive, which holds code. Where you trust it (OpenAI's "
                'files are of this kind), save its weights alone: python -c "import torch; torch.save('
                f"torch.jit.load('{path}', map_location='cpu').state_dict(), '{path.with_suffix('')}-weights.pt')\""
            ) from error
        line = printable("".join(str(error).strip().splitlines()[:1]))
        raise UserError(f"{path}: not a whole PyTorch file ({line}). Fetch or export it again.") from error
    state = _state_dict(content)
    if state is None or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"{path}: expected a state_dict, tensors by name, alone or under {', '.join(_CONTAINERS)}; found "
            f"{_describe(content if state is None else state)}."
        )
    _check_count(path, len(state))
    return {name: _from_torch(torch, path, name, tensor) for name, tensor in state.items()}


def _check_archive(path: Path) -> None:
    """Raises UserError for an archive whose parts are larger than itself, as PyTorch writes none of tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # of PyTorch before 1.6, or damaged
        return
    if any(part.filename.endswith("constants.pkl") for part in parts):  # TorchScript, which `torch.load` refuses itself
        return
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise UserError(f"{path}: not as PyTorch writes its files, since parts of it are compressed. Save it again.")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise UserError(f"{path}: not a whole PyTorch file (its parts overlap). Fetch or export it again.")


def _state_dict(content: object) -> dict[str, Any] | None:
    """The tensors by name in what a checkpoint holds, by themselves or in a container; None: there are none."""
    for _ in range(_DEEPEST):
        inner = isinstance(content, dict) and next(
            (content[name] for name in _CONTAINERS if isinstance(content.get(name), dict)), None
        )
        if not isinstance(inner, dict):
            break
        content = inner
    return content if isinstance(content, dict) and all(isinstance(name, str) for name in content) else None


def import_torch(what: str) -> Any:
    """PyTorch, which only conversions need.

    Raises:
      UserError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{what} needs PyTorch. Install it with: pip install torch") from None
    if torch.version.cuda is None:
        # torchvision, which open_clip and transformers import, describes its CUDA operators to PyTorch and fails where
        # PyTorch has none; only compiling models needs that description.
        sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return torch


def _from_torch(torch: Any, path: Path, name: str, tensor: Any) -> np.ndarray:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
             torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # fmt: skip
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    dtype = str(tensor.dtype) if dense else f"a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}"
    _check_form(path, name, dtype, tensor.shape, dense and tensor.dtype in kinds)
    if tensor.nelement() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{path}: {printable(name)}: not a whole PyTorch file (fewer numbers than its shape says).")
    return _as_float32((tensor.float() if tensor.is_floating_point() else tensor).detach().numpy())


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32, copy=False)


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"entries {', '.join(printable(name, 60) for name in list(content)[:5] if isinstance(name, str | int))}"
    return f"a {type(content).__name__}"
