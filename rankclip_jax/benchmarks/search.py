"""How long a search among many pairs takes, beside comparing the query with every row."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from rankclip_jax.embedding.embedder import Embedded
from rankclip_jax.search.index import build

_WIDTH = 512
_QUERIES = 30
_NEAREST = 10
_AT_ONCE = 100_000


def run(pairs: int, folder: Path) -> list[dict]:
    """Searches images and texts for made embeddings, in turns with a search of every row; prints a line; the row.

    Args:
      pairs: in the index.
      folder: the index is written below it, and removed: four kibibytes a pair.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        own = np.arange(pairs)
        every = {"image": _spread(0, pairs), "text": _spread(1, pairs)}
        index = build(Path(place), {}, Embedded(every["image"], every["text"], own, own, own))
        seconds: dict[str, list[float]] = {"ours": [], "every row": []}
        shares = []
        for query in _spread(2, _QUERIES):
            start = time.perf_counter()
            found = [[number for number, _, _ in index.nearest(query, kind, _NEAREST)] for kind in every]
            between = time.perf_counter()
            nearest = [np.argpartition(-(rows @ query), _NEAREST)[:_NEAREST] for rows in every.values()]
            seconds["every row"].append(time.perf_counter() - between)
            seconds["ours"].append(between - start)
            shares += [
                len(set(some) & set(all_.tolist())) / _NEAREST for some, all_ in zip(found, nearest, strict=True)
            ]
    row = {
        "pairs": pairs,
        "milliseconds": 1e3 * statistics.median(seconds["ours"]),
        "most_milliseconds": 1e3 * max(seconds["ours"]),
        "every_row_milliseconds": 1e3 * statistics.median(seconds["every row"]),
        "found": statistics.mean(shares),
    }
    print(
        f"{pairs:,} pairs: {row['milliseconds']:.0f} ms a query of images and texts, "
        f"{row['most_milliseconds']:.0f} at most; every row {row['every_row_milliseconds']:.0f} ms; "
        f"{row['found']:.1%} of the nearest {_NEAREST} found"
    )
    return [row]


def _spread(seed: int, count: int) -> np.ndarray:
    """Unit rows that lie mostly in some directions, as embeddings do."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(_WIDTH, dtype=np.float32) / 80)
    rows = np.empty((count, _WIDTH), np.float32)
    for start in range(0, count, _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        some[:] = rng.standard_normal(some.shape, np.float32) * scale
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return rows
