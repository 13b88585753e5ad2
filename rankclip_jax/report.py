"""The picture of a run: how the loss fell, what the model holds similar, and what it says of images."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from input_pipeline.loader import evaluation_pixels
from input_pipeline.scenes import CLASS_NAMES, Scenes
from input_pipeline.source import Source
from input_pipeline.source import captions as captions_of
from rankclip_jax.evaluation.encoding import Encoded

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_MATRIX = 64
_EXAMPLES = 5
_EXAMPLE_PIXELS = 224
_CAPTIONS = 3


def draw(workdir: Path, source: Source, encoded: Encoded) -> Path:
    """Draws ``report.png`` from the run's ``metrics.jsonl`` and the embeddings of its validation set."""
    figure = plt.figure(figsize=(15, 9), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = halves
    panels = top.subplots(1, 3 if isinstance(source, Scenes) else 2)
    _draw_curves(panels[0], workdir / "metrics.jsonl")
    few = _alike_together(source, encoded)
    similarity = encoded.image[few] @ encoded.text[few].T
    _draw_matrix(panels[1], similarity, f"similarity of {len(few)} images (rows) to captions, learned")
    if isinstance(source, Scenes):
        chosen = encoded.index[few]
        _draw_matrix(panels[2], source.relevance()[np.ix_(chosen, chosen)], "the same, true share of what is said")
    for axes, row in zip(bottom.subplots(1, _EXAMPLES), range(min(_EXAMPLES, len(encoded.index))), strict=False):
        _draw_example(axes, source, encoded, row)
    path = workdir / "report.png"
    figure.savefig(path, dpi=90, bbox_inches="tight")
    plt.close(figure)
    return path


def _draw_curves(axes: Axes, path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    for name in ("loss", "contrastive", "cross_modal", "in_modal", "validation/loss"):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if name == "validation/loss" else None)
    axes.set(xlabel="step", title="loss and its terms", ylim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def _draw_matrix(axes: Axes, matrix: np.ndarray, title: str) -> None:
    axes.imshow(matrix, cmap="viridis", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _draw_example(axes: Axes, source: Source, encoded: Encoded, row: int) -> None:
    """An image above the captions of the validation set that the model finds most like it; its own is marked."""
    record = source[int(encoded.index[row])]
    axes.imshow(evaluation_pixels(record["image"], getattr(source, "image_size", _EXAMPLE_PIXELS)))
    own = captions_of(record)[0]
    captions: list[str] = []
    for column in np.argsort(-(encoded.text @ encoded.image[row])):
        caption = captions_of(source[int(encoded.index[column])])[0]
        if caption not in captions:
            captions.append(caption)
        if len(captions) == _CAPTIONS:
            break
    ranked = [f"{rank}. {_wrap(caption + ' (its own)' * (caption == own))}" for rank, caption in enumerate(captions, 1)]
    axes.set(xticks=[], yticks=[])
    axes.set_title(_wrap(f"“{own}”"), fontsize=9)
    axes.set_xlabel("\n".join(ranked), fontsize=8)


def _alike_together(source: Source, encoded: Encoded) -> np.ndarray:
    """Rows for the matrices: scenes sorted by class, so that what is shared shows as blocks."""
    few = np.arange(min(_MATRIX, len(encoded.index)))
    if isinstance(source, Scenes):
        labels = source.class_labels()[encoded.index[few]]
        few = few[np.argsort(labels * len(CLASS_NAMES), kind="stable")]
    return few


def _wrap(caption: str, width: int = 40) -> str:
    lines = [""]
    for word in caption.split()[:30]:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.strip() for line in lines)
