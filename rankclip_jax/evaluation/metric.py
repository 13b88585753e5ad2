"""What a measure returns."""

from typing import Literal, NamedTuple

Unit = Literal["share", "correlation", "pairs", "count", ""]


class Metric(NamedTuple):
    """One number about a model.

    Args:
      name: such as ``retrieval/image_to_text/recall_1``.
      value: None where these data do not define it.
      unit: ``share`` (in [0, 1], printed as a percentage), ``correlation`` (in [-1, 1]), ``pairs``, ``count``, or none.
    """

    name: str
    value: float | None
    unit: Unit = "share"
