"""Benchmark of a search in the index, compared with an exhaustive search."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.benchmarks.timing import columns, format_row, print_conclusion, take_turns, timed
from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.search.index import build

_WIDTH = 512
_QUERIES = 30
_NEAREST = 10
_AT_ONCE = 100_000


def run(pairs: int, folder: Path) -> list[dict]:
    """Searches synthetic embeddings in turns with an exhaustive search, prints a line, and returns the row.

    Args:
      pairs: number of pairs in the index.
      folder: the folder in which the index is written temporarily: four kibibytes per pair.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        own = np.arange(pairs)
        every = {"image": _spread(0, pairs), "text": _spread(1, pairs)}
        index = build(Path(temporary), {}, Embedded(every["image"], every["text"], own, own, own))
        queries, slowest = _spread(2, _QUERIES), 0.0

        def search() -> list[list[int]]:
            nonlocal slowest
            nearest = []
            for query in queries:
                start = time.perf_counter()
                nearest += [[number for number, _, _ in index.nearest(query, kind, _NEAREST)] for kind in every]
                slowest = max(slowest, time.perf_counter() - start)
            return nearest

        def compare_all() -> list[list[int]]:
            return [
                np.argpartition(-(rows @ query), _NEAREST)[:_NEAREST].tolist()
                for query in queries
                for rows in every.values()
            ]

        pairs_of_lists = zip(search(), compare_all(), strict=True)
        share = statistics.mean(len(set(approximate) & set(exact)) / _NEAREST for approximate, exact in pairs_of_lists)
        slowest = 0.0  # excludes warm-up
        timings = take_turns({"ours": timed(search), "every row": timed(compare_all)})
    row: dict[str, Any] = {"pairs": pairs, "most_milliseconds": 1e3 * slowest, "found": share}
    row |= columns("milliseconds", timings.spread("ours", 1e3 / _QUERIES))
    row |= columns("every_row_milliseconds", timings.spread("every row", 1e3 / _QUERIES))
    row |= columns("every_row_against_ours", timings.ratio("every row", to="ours"))
    row |= timings.load_columns()
    print(
        f"{pairs:,} pairs: {format_row(row, 'milliseconds')} ms per query of images and texts, "
        f"{1e3 * slowest:,.1f} at most; exhaustive search {format_row(row, 'every_row_milliseconds')} ms, "
        f"{format_row(row, 'every_row_against_ours', '.2f')} x ours; {share:.1%} of the nearest {_NEAREST} found"
    )
    print_conclusion(timings)
    return [row]


def _spread(seed: int, count: int) -> np.ndarray:
    """Returns random unit rows with a decaying spectrum, like embeddings."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(_WIDTH, dtype=np.float32) / 80)
    rows = np.empty((count, _WIDTH), np.float32)
    for start in range(0, count, _AT_ONCE):
        block = rows[start : start + _AT_ONCE]
        block[:] = rng.standard_normal(block.shape, np.float32) * scale
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows
