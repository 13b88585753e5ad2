"""open_clip's training step in PyTorch, timed on demand: a process that `train` starts beside its own.

It is told a model, a batch size, a type and a platform; says ``ready`` or why not; and answers each line, a number of
steps, with the seconds of one.
"""

import contextlib
import math
import sys
import time

from rankclip_jax.interop.files import import_torch

torch = import_torch("the comparison with open_clip")

import open_clip  # noqa: E402  # after PyTorch, which is told first what it must not look for
from open_clip.loss import ClipLoss  # noqa: E402


def main(name: str, batch: str, dtype: str, platform: str) -> None:
    """Builds, warms nothing up, and waits."""
    if platform == "gpu" and not torch.cuda.is_available():
        print("PyTorch here is without CUDA", flush=True)
        return
    if name not in open_clip.list_models():
        print(f"open_clip has no model {name}", flush=True)
        return
    device = "cuda" if platform == "gpu" else "cpu"
    model = open_clip.create_model(f"{name}-quickgelu" if f"{name}-quickgelu" in open_clip.list_models() else name)
    model = model.to(device).train()
    side, length, size = model.visual.image_size, model.context_length, int(batch)
    images = torch.randn(size, 3, *(side if isinstance(side, tuple) else (side, side)), device=device)
    texts = torch.randint(1, 49_000, (size, length), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    loss_of = ClipLoss()

    def step() -> None:
        optimizer.zero_grad()
        half = torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
        with half:
            image_features, text_features, scale = model(images, texts)
            loss = loss_of(image_features, text_features, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        print((time.perf_counter() - start) / int(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
