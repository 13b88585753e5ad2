"""The summary figure of a run: loss curves, similarity matrices and examples of retrieved captions."""

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rankclip_jax.checkpoints.workdir import read_config
from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.input_pipeline.images import MOST_PIXELS
from rankclip_jax.input_pipeline.loader import evaluation_pixels
from rankclip_jax.input_pipeline.source import Source, ground_truth_of
from rankclip_jax.input_pipeline.source import captions as captions_of
from rankclip_jax.monitoring.writers import read_lines

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

NAME = "report.png"
_MATRIX = 64
_EXAMPLES = 5
_EXAMPLE_PIXELS = 224
_CAPTIONS = 3


def draw(workdir: Path, source: Source, embedded: Embedded) -> Path:
    """Draws ``report.png`` from the run's ``metrics.jsonl`` and the embeddings of its validation data."""
    figure = plt.figure(figsize=(15, 9), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = halves
    relevance = ground_truth_of(source).relevance
    panels = top.subplots(1, 3 if relevance else 2)
    _draw_curves(panels[0], workdir)
    rows = _sorted_by_class(source, embedded)
    similarity = embedded.image[rows] @ embedded.first_text[rows].T
    _draw_matrix(panels[1], similarity, f"learned similarity of {len(rows)} images (rows) to captions")
    if relevance:
        truth = relevance(embedded.index[rows].tolist())
        _draw_matrix(panels[2], truth, "true relevance of the same pairs")
    for axes, row in zip(bottom.subplots(1, _EXAMPLES), range(min(_EXAMPLES, len(embedded.index))), strict=False):
        _draw_example(axes, source, embedded, row)
    path = workdir / NAME
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90, bbox_inches="tight")
    plt.close(figure)
    write_atomically(path, content.getvalue())
    return path


def _draw_curves(axes: Axes, workdir: Path) -> None:
    """Draws the losses over steps; a validation loss with another batch size than training is marked as such."""
    path = workdir / "metrics.jsonl"
    lines = read_lines(path)
    training = read_config(workdir)["train"]["global_batch_size"]
    for name in ("loss", "contrastive", "cross_modal", "in_modal", "validation/loss"):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        sizes = {line["validation/batch_size"] for line in lines if line.get("validation/batch_size") is not None}
        apart = name == "validation/loss" and sizes != {training}
        label = (
            f"{name} with {max(sizes):.0f} pairs (training: {training}), not comparable" if apart and sizes else name
        )
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=label,
                marker="o" if name == "validation/loss" else None,
                linestyle=":" if apart else "-",
            )
    axes.set(xlabel="step", title="loss and its terms", ylim=(0, None))
    if axes.lines:
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def _draw_matrix(axes: Axes, matrix: np.ndarray, title: str) -> None:
    axes.imshow(matrix, cmap="viridis", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def _draw_example(axes: Axes, source: Source, embedded: Embedded, row: int) -> None:
    """Draws an image with the captions that are most similar to it; its own caption is marked."""
    record = source[int(embedded.index[row])]
    axes.imshow(evaluation_pixels(record["image"], getattr(source, "image_size", _EXAMPLE_PIXELS), MOST_PIXELS))
    own = captions_of(record)[0]
    captions: list[str] = []
    for column in np.argsort(-(embedded.first_text @ embedded.image[row])):
        caption = captions_of(source[int(embedded.index[column])])[0]
        if caption not in captions:
            captions.append(caption)
        if len(captions) == _CAPTIONS:
            break
    ranked = [f"{rank}. {_wrap(caption + ' (its own)' * (caption == own))}" for rank, caption in enumerate(captions, 1)]
    axes.set(xticks=[], yticks=[])
    axes.set_title(_wrap(f"“{own}”"), fontsize=9)
    axes.set_xlabel("\n".join(ranked), fontsize=8)


def _sorted_by_class(source: Source, embedded: Embedded) -> np.ndarray:
    """Returns the rows of the matrices, sorted by class where there are classes, so that classes show as blocks."""
    rows = np.arange(min(_MATRIX, len(embedded.index)))
    classes = ground_truth_of(source).classes
    return rows[np.argsort(classes.labels(embedded.index[rows].tolist()), kind="stable")] if classes else rows


def _wrap(caption: str, width: int = 40) -> str:
    lines = [""]
    for word in caption.split()[:30]:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.strip() for line in lines)
