"""Readers and writers of tensor files: safetensors, and PyTorch files, which are read without executing code."""

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
_TYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U64",
    "U32",
    "U16",
    "U8",
    "BOOL",
)  # safetensors' names
_MOST_TENSORS = 20_000  # the largest preset has about a thousand
_MOST_AXES = 8
# Name parts that wrappers add: torch.compile, DataParallel and DeepSpeed, PyTorch Lightning, FSDP.
_WRAPPERS = {"_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CONTAINERS = ("state_dict", "model_state_dict", "model", "state", "module")  # keys of the weights in checkpoints
_DEEPEST = 4  # nested containers


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Reads all tensors of a file, floating-point ones as float32, and the file's metadata.

    Weights are extracted from a PyTorch checkpoint (see `_CONTAINERS`), and names lose the prefixes of wrappers (see
    `plain_name`).

    Raises:
      UserError: the file is not a file of weights, is damaged, or holds code.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file of weights that ends in {', '.join(SUFFIXES)}; found {path.name!r}.")
    try:
        open_regular(path).close()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}). Expected a file of weights: {', '.join(SUFFIXES)}."
        raise UserError(message) from error
    tensors, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_torch_archive(path), {})
    if not tensors:
        raise UserError(f"{path}: expected the weights of a CLIP model; found no tensors.")
    return _with_plain_names(path, tensors), metadata


def plain_name(name: str) -> str:
    """Returns a tensor's name in the model itself, without the parts that wrappers add.

    A leading ``model.`` is removed too, and the leading ``text.`` of open_clip's ``CustomTextCLIP``, whose text tower
    is a separate module.

    >>> plain_name("module._orig_mod.model.text.transformer.resblocks.0.ln_1.weight")
    'transformer.resblocks.0.ln_1.weight'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["model"]:
        parts = parts[1:]
    return ".".join(parts[1:] if parts[:1] == ["text"] else parts)


def _with_plain_names(path: Path, tensors: Tensors) -> Tensors:
    full_names: dict[str, str] = {}
    for name in tensors:
        if (first := full_names.setdefault(plain_name(name), name)) != name:
            raise UserError(
                f"{path}: expected the weights of one model; found several: {printable(first)} and {printable(name)} "
                f"are both {printable(plain_name(name))}. Save the weights of a single model."
            )
    return {plain: tensors[name] for plain, name in full_names.items()}


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes safetensors with the user's usual file permissions.

    Raises:
      OSError: the file cannot be written.
    """
    try:
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, metadata)
    except safetensors.SafetensorError as error:
        raise _as_os_error(error, path) from error
    give_usual_mode(path)


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Writes a PyTorch file.

    Raises:
      OSError: the file cannot be written.
    """
    torch = import_torch(f"{path}: writing it")
    try:
        with path.open("wb") as file:  # its errors state the cause; PyTorch's own mention only positions
            torch.save(content, file)
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        raise (cause if isinstance(cause, OSError) else _as_os_error(error, path)) from error


def _as_os_error(error: Exception, path: Path) -> OSError:
    """Converts a library's error in writing a file to an OSError."""
    words = str(error)
    number = re.search(r"os error (\d+)", words)
    reason = os.strerror(int(number[1])) if number else f"{type(error).__name__}: {words.splitlines()[0][:200]}"
    return OSError(int(number[1]) if number else errno.EIO, reason, str(path))


def give_usual_mode(path: Path) -> None:
    """Sets a file's permissions to those of new files of this user, where it was created for the owner only."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # validates sizes and offsets
            names = list(file.keys())
            _check_count(path, len(names))
            for name in names:
                tensor = file.get_slice(name)
                _check_form(path, name, tensor.get_dtype(), tensor.get_shape(), tensor.get_dtype() in _TYPES)
            return {name: _as_float32(file.get_tensor(name)) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: incomplete or damaged safetensors file ({printable(error)}). Download or export it again."
        ) from error


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise UserError(f"{path}: holds {count:,} tensors; expected at most {_MOST_TENSORS:,}.")


def _check_form(path: Path, name: str, dtype: str, shape: Any, known: bool) -> None:
    """Raises UserError for a dtype or shape that model weights do not have."""
    if not known:
        raise UserError(
            f"{path}: {printable(name)}: expected floats of 16, 32 or 64 bits, or integers; found {dtype}. "
            "Convert the weights to float32, and save them again."
        )
    if len(shape) > _MOST_AXES or (0 in shape and len(shape) > 1):
        raise UserError(
            f"{path}: {printable(name)}: expected a non-empty tensor of at most {_MOST_AXES} axes; found the shape "
            f"{printable(list(shape), 100)}."
        )


def _torch_archive(path: Path) -> Tensors:
    torch = import_torch(f"{path}: reading it")
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise UserError(
            f"{path}: refused: expected only tensors; found other objects, which could run code when they are read. "
            f"{printable(reason.strip())} If you trust the file, save only its weights: "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises arbitrary errors
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: refused: TorchScript archives hold code. If you trust the file (OpenAI's are of this kind), "
                'save only its weights: python -c "import torch; torch.save('
                f"torch.jit.load('{path}', map_location='cpu').state_dict(), '{path.with_suffix('')}-weights.pt')\""
            ) from error
        line = printable("".join(str(error).strip().splitlines()[:1]))
        raise UserError(f"{path}: incomplete or damaged PyTorch file ({line}). Download or export it again.") from error
    state = _state_dict(content)
    if state is None or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(
            f"{path}: expected a state_dict (tensors by name) at the top or under {', '.join(_CONTAINERS)}; found "
            f"{_describe(content if state is None else state)}."
        )
    _check_count(path, len(state))
    return {name: _from_torch(torch, path, name, tensor) for name, tensor in state.items()}


def _check_archive(path: Path) -> None:
    """Raises UserError for an archive with compressed or overlapping parts, which PyTorch never writes for tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # from PyTorch before 1.6, or damaged
        return
    if any(part.filename.endswith("constants.pkl") for part in parts):  # TorchScript, which `torch.load` refuses itself
        return
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise UserError(
            f"{path}: expected an uncompressed archive, as PyTorch writes it; found compressed parts. Save it again "
            "with torch.save."
        )
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise UserError(f"{path}: damaged PyTorch file (its parts overlap). Download or export it again.")


def _state_dict(content: object) -> dict[str, Any] | None:
    """Returns the tensors by name in a checkpoint, at the top or in nested containers; None: not found."""
    for _ in range(_DEEPEST):
        inner = isinstance(content, dict) and next(
            (content[name] for name in _CONTAINERS if isinstance(content.get(name), dict)), None
        )
        if not isinstance(inner, dict):
            break
        content = inner
    return content if isinstance(content, dict) and all(isinstance(name, str) for name in content) else None


def import_torch(what: str) -> Any:
    """Imports PyTorch, which only conversions need.

    Args:
      what: the action that needs it, for the error.

    Raises:
      UserError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{what} needs PyTorch. Install it with: pip install torch") from None
    if torch.version.cuda is None:
        # torchvision, which open_clip and transformers import, registers meta kernels of its CUDA operators. That fails
        # for PyTorch without CUDA, and only compiling models needs them.
        sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return torch


def _from_torch(torch: Any, path: Path, name: str, tensor: Any) -> np.ndarray:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool,
             torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # fmt: skip
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    dtype = str(tensor.dtype) if dense else f"a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}"
    _check_form(path, name, dtype, tensor.shape, dense and tensor.dtype in kinds)
    if tensor.nelement() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{path}: {printable(name)}: damaged PyTorch file (fewer values than the tensor's shape has). Download "
            "or export it again."
        )
    return _as_float32((tensor.float() if tensor.is_floating_point() else tensor).detach().numpy())


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32, copy=False)


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"entries {', '.join(printable(name, 60) for name in list(content)[:5] if isinstance(name, str | int))}"
    return f"a {type(content).__name__}"
