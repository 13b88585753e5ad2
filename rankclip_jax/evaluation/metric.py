"""What an evaluation returns."""

from typing import Literal, NamedTuple

Unit = Literal["share", "correlation", "pairs", "count", ""]


class Metric(NamedTuple):
    """One number about a model.

    Args:
      name: such as ``retrieval/image_to_text/recall_1``.
      value: None where these data do not define it.
      unit: ``share`` (in [0, 1], printed as a percentage), ``correlation`` (in [-1, 1]), ``pairs``, ``count``, or none.
      higher_is_better: its direction; None: neither way is better.
      public_name: what CLIP_benchmark, or DataComp, calls it; empty: as ``name``.
    """

    name: str
    value: float | None
    unit: Unit = "share"
    higher_is_better: bool | None = True
    public_name: str = ""


def count(name: str, value: int) -> Metric:
    """How many there are of something."""
    return Metric(name, value, "count", None)
