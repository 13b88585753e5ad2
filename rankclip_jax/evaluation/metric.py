"""The type of a metric, as evaluations return it."""

from typing import Literal, NamedTuple

import numpy as np

Unit = Literal["share", "correlation", "pairs", "count", ""]


class Metric(NamedTuple):
    """A metric of a model.

    Args:
      name: such as ``retrieval/image_to_text/recall_1``.
      value: None where it is undefined for the data.
      unit: ``share`` (in [0, 1], printed as a percentage), ``correlation`` (in [-1, 1]), ``pairs``, ``count``, or none.
      higher_is_better: its direction; None: neither direction is better.
      public_name: its name in CLIP_benchmark or DataComp; empty: the same as ``name``.
      samples: its value for each query, float ``[n]``, of which it is the mean; for paired comparisons of models. None:
        it is no mean over queries.
    """

    name: str
    value: float | None
    unit: Unit = "share"
    higher_is_better: bool | None = True
    public_name: str = ""
    samples: np.ndarray | None = None


def count(name: str, value: int) -> Metric:
    """Returns a metric that counts something."""
    return Metric(name, value, "count", None)
