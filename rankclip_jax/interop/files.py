"""Tensors in files: safetensors, and PyTorch's archives without anything in them that could run."""

import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from rankclip_jax.input_pipeline.errors import UserError

Tensors = dict[str, np.ndarray]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a file, floating ones as float32, and what the file says of itself.

    A PyTorch checkpoint's ``state_dict`` is taken out of it, and the prefix ``module.`` of parallel training off.

    Raises:
      UserError: the file is no such file, is damaged, or holds code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected weights: {', '.join(SUFFIXES)}.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: not a file of weights by its name. Expected one that ends in {', '.join(SUFFIXES)}.")
    tensors, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_torch_archive(path), {})
    if not tensors:
        raise UserError(f"{path}: holds no tensors. Expected the weights of a CLIP model.")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors, metadata


def write(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes safetensors, readable by whom the user's other files are."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, metadata)
    give_usual_mode(path)


def give_usual_mode(path: Path) -> None:
    """Gives a file that was made for its owner alone the permissions that new files of this user have."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: _as_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}). Fetch or export it again.") from error


def _torch_archive(path: Path) -> Tensors:
    torch = import_torch(f"{path}: reading it")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise UserError(
            f"{path}: refused, since it holds more than tensors, and reading that could run code from the file. "
            f"{reason.strip()} Where you trust it, save its weights alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{path}: refused, since it is a TorchScript archive, which holds code. Where you trust it (OpenAI's "
                'files are of this kind), save its weights alone: python -c "import torch; torch.save('
                f"torch.jit.load('{path}', map_location='cpu').state_dict(), '{path.with_suffix('')}-weights.pt')\""
            ) from error
        line = str(error).strip().splitlines()[:1]
        raise UserError(f"{path}: not a whole PyTorch file ({''.join(line)}). Fetch or export it again.") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: expected a state_dict, tensors by name; found {_describe(content)}.")
    return {name: _from_torch(tensor) for name, tensor in content.items()}


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


def _from_torch(tensor: Any) -> np.ndarray:
    return _as_float32((tensor.float() if tensor.is_floating_point() else tensor).detach().numpy())


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32, copy=False)


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"entries {', '.join(map(repr, list(content)[:5]))}"
    return f"a {type(content).__name__}"
