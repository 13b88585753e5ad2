"""open_clip's training step in PyTorch as a peer process that the benchmark `train` starts (see `peer`).

Its arguments are a model, a batch size, a dtype, a platform, and any of ``keep_memory``, ``fused`` and ``compiled``.
"""

import contextlib
import math
import sys
from collections.abc import Callable

from rankclip_jax.benchmarks.peer import PeerError, serve
from rankclip_jax.distributed import platform
from rankclip_jax.interop.files import import_torch


def prepare(name: str, batch: str, dtype: str, backend: str, *options: str) -> Callable[[], None]:
    """Returns a function that takes one step, without warm-up.

    Raises:
      PeerError: PyTorch does not find the device, or open_clip does not have the model.
    """
    if "keep_memory" in options:
        platform.keep_freed_memory()
    torch = import_torch("the comparison with open_clip")
    import open_clip  # after `import_torch`, which prepares PyTorch for this import
    from open_clip.loss import ClipLoss

    if backend == "gpu" and not torch.cuda.is_available():
        raise PeerError("PyTorch is installed without CUDA")
    if name not in open_clip.list_models():
        raise PeerError(f"open_clip has no model {name}")
    device = "cuda" if backend == "gpu" else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as XLA's float32
    model = open_clip.create_model(f"{name}-quickgelu" if f"{name}-quickgelu" in open_clip.list_models() else name)
    model = model.to(device).train()
    side, length, size = model.visual.image_size, model.context_length, int(batch)
    images = torch.randn(size, 3, *(side if isinstance(side, tuple) else (side, side)), device=device)
    texts = torch.randint(1, 49_000, (size, length), device=device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused="fused" in options or None
    )
    loss_of = ClipLoss()
    forward = torch.compile(model) if "compiled" in options else model  # as its --torchcompile

    def step() -> None:
        optimizer.zero_grad()
        half = torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
        with half:
            image_features, text_features, scale = forward(images, texts)
            loss = loss_of(image_features, text_features, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if device == "cuda":
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    serve(lambda: prepare(*sys.argv[1:]))
