"""CLIP_benchmark's zero-shot classification as a peer process that the benchmark `evaluation` starts (see `peer`).

Its arguments are a model, a folder with a WebDataset, a platform, ``amp`` or ``no_amp``, and optionally
``keep_memory``.
"""

import os
import sys
import warnings
from collections.abc import Callable

from rankclip_jax.benchmarks.peer import PeerError, serve
from rankclip_jax.distributed import platform
from rankclip_jax.interop.files import import_torch

_BATCH = 64  # CLIP_benchmark's own


def prepare(name: str, folder: str, backend: str, precision: str, *options: str) -> Callable[[], object]:
    """Returns a function that reads, decodes, embeds and classifies the whole dataset.

    Raises:
      PeerError: PyTorch does not find the device, or open_clip does not have the model.
    """
    if "keep_memory" in options:
        platform.keep_freed_memory()
    os.environ.setdefault("TQDM_DISABLE", "1")
    torch = import_torch("the comparison with CLIP_benchmark")
    warnings.simplefilter("ignore")  # warnings of the peer's libraries
    import open_clip
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
    from open_clip.transform import image_transform

    if backend == "gpu" and not torch.cuda.is_available():
        raise PeerError("PyTorch is installed without CUDA")
    if name not in open_clip.list_models():
        raise PeerError(f"open_clip has no model {name}")
    device, amp = "cuda" if backend == "gpu" else "cpu", precision == "amp"
    model = open_clip.create_model(f"{name}-quickgelu" if f"{name}-quickgelu" in open_clip.list_models() else name)
    model = model.to(device).eval()
    side = model.visual.image_size
    transform = image_transform(side if isinstance(side, int) else side[0], is_train=False)
    data = build_wds_dataset("made", transform, split="test", data_dir=folder)
    # A single tar file, so a single worker.
    loader = torch.utils.data.DataLoader(data.batched(_BATCH), batch_size=None, num_workers=1)
    tokenizer = open_clip.get_tokenizer(name)

    def classify() -> object:
        classifier = zero_shot_classifier(model, tokenizer, data.classes, data.templates, device, amp=amp)
        return run_classification(model, classifier, loader, device, amp=amp)

    return classify


if __name__ == "__main__":
    serve(lambda: prepare(*sys.argv[1:]))
