"""Ranking consistency: the list-wise (Plackett-Luce) loss of RankCLIP, within and across modalities.

ListMLE (Xia et al., 2008) is the negative log-likelihood of an order under the Plackett-Luce model: with the
scores ``p`` of a list put in descending order of their relevance,

    ListMLE(p) = sum_k ( log C_k - p_k ),   C_k = sum_{j >= k} exp(p_j)
    d ListMLE / d p_k = exp(p_k) sum_{j <= k} 1 / C_j - 1

so value and gradient cost one sort and two cumulative sums.

**Range.** Scores reach ``+-100``, so ``exp`` overflows or underflows float32. All terms are positive, so their sums
lose no accuracy to cancellation, only to range. Terms are therefore grouped into windows of 64 nats below the row's
maximum; each window has its own cumulative sum, and the windows are joined in the log domain. The number of windows
depends on the data: one while the scale is small, three or four at its limit.

**Sort.** A descending order of floats is an ascending order of integers (an order-preserving bit cast). On CPUs the
column's index is packed below that key into one 64-bit integer, which sorts 2.5 times faster than a key with a payload.
Elsewhere key and index are two operands, which XLA turns into a radix sort on CUDA.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rankclip_jax.input_pipeline.setting import MANY, WEIGHT, Choice, Range, Settings, setting
from rankclip_jax.objectives.objective import Metrics, ScaleChoice, Step, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows

Variant = Literal["exact", "released"]

# A list: the views whose similarity scores the columns, and the views whose similarity orders them.
List = tuple[tuple[str, str], tuple[str, str]]
CROSS_MODAL: tuple[List, ...] = (
    (("image", "text"), ("text", "image")),
    (("text", "image"), ("image", "text")),
)
IN_MODAL: tuple[List, ...] = (
    (("image", "image"), ("text", "text")),
    (("text", "text"), ("image", "image")),
)

RELEASED_EPSILON = 1e-10
RELEASED_DIVISOR = 32  # the release divides each sum of two ListMLEs by this, and then by the batch size
_WINDOW = 64.0
_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class RankingOptions(Settings):
    """Options of the ranking terms, a base of the objectives that have them."""

    variant: Variant = setting(
        "exact",
        "form of the ranking terms: `exact`, or `released`: fades out as the scale grows",
        Choice(get_args(Variant)),
    )
    lambda_cross: float = setting(1.0, "weight of the cross-modal ranking term", WEIGHT)
    lambda_in: float = setting(1.0, "weight of the in-modal ranking term", WEIGHT)
    ranking_scale: str = setting(
        "learned",
        "scale of ranked similarities: `learned`, `learned_without_gradient`, or a number such as 14.3",
        ScaleChoice(),
    )
    position_decay: bool = setting(False, "weight the k-th position of a list by 1 / log(k + 1)")
    list_size: int = setting(0, "rank each row against this many random columns; 0: all", Range(0, MANY))


def listmle(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    variant: Variant = "exact",
    key: jax.Array | None = None,
    position_decay: bool = False,
) -> jax.Array:
    """Returns the negative log-likelihood of each row's order by relevance under the Plackett-Luce model of its scores.

    Args:
      scores: ``[rows, n]``; gradients flow.
      relevance: ``[rows, n]``, defines the order, largest first; no gradient flows.
      variant: ``"exact"``, or ``"released"``: as RankCLIP's code computes it, with 1e-10 added to each sum of
        exponentials relative to the row's largest, which makes low-scored tails fade.
      key: breaks ties at random; None: ties keep their columns' order.
      position_decay: weight the k-th position by ``1 / log(k + 1)``, as in RankCLIP's paper but not in its code.

    Returns:
      ``[rows]``, in nats.

    Example:
      Scores in the order of their relevance are likelier than scores in the opposite order:

      >>> import jax.numpy as jnp
      >>> from rankclip_jax import listmle
      >>> scores = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
      >>> relevance = jnp.array([[9.0, 5.0, 1.0], [1.0, 5.0, 9.0]])
      >>> print([f"{loss:.3f}" for loss in listmle(scores, relevance)])
      ['0.721', '3.721']

    References:
      Xia et al., Listwise approach to learning to rank, ICML 2008.
    """
    if variant not in ("exact", "released"):
        raise ValueError(f"variant: expected 'exact' or 'released'; found {variant!r}")
    if key is not None:
        order = jax.random.permutation(key, scores.shape[-1])
        scores, relevance = scores[:, order], relevance[:, order]
    return _listmle(scores, jax.lax.stop_gradient(relevance), variant, position_decay)


def consistency(
    image_embedding: jax.Array,
    text_embedding: jax.Array,
    scale: jax.Array,
    *,
    variant: Variant = "exact",
    key: jax.Array | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    position_decay: bool = False,
    list_size: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns RankCLIP's two ranking terms (Zhang et al., ICCV 2025), unweighted, over the global batch.

    With ``s`` the scale, ``x`` the images and ``t`` the texts,

        cross = (ListMLE(s x t', s t x') + ListMLE(s t x', s x t')) / 32 / B
        in    = (ListMLE(s x x', s t t') + ListMLE(s t t', s x x')) / 32 / B

    where ListMLE is the mean over rows.

    Args:
      image_embedding: unit rows ``[B, D]``.
      text_embedding: unit rows ``[B, D]``.
      scale: the multiplier ``s`` itself, ``[]``, not its logarithm.
      variant: see `listmle`.
      key: see `listmle`.
      chunk_size: rows that a device processes at once; None: by a memory budget.
      mesh: the devices over which the rows are sharded; None: no sharding.
      position_decay: see `listmle`.
      list_size: rank each row against this many random columns, the same for all rows, instead of all (needs a key).
        The sum then runs over, and is divided by, ``list_size`` positions instead of B. It is an unbiased estimate of
        the mean loss of such sublists: a composite likelihood with the same optimum as that of the whole list, since
        the Plackett-Luce model of a list implies that of its sublists. It is biased for the loss of the whole list,
        whose tail sums are longer.

    Returns:
      ``(cross_modal, in_modal)``, scalars.

    Raises:
      ValueError: ``list_size`` is given without a key, or the rows cannot be split evenly over the devices.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from rankclip_jax import consistency
      >>> image = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
      >>> text = jnp.array([[0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
      >>> cross_modal, in_modal = consistency(image, text, jnp.array(10.0), key=jax.random.key(0))
      >>> print(f"{cross_modal:.4f} {in_modal:.4f}")
      0.0797 0.0862

    References:
      Zhang et al., RANKCLIP: Ranking-Consistent Language-Image Pretraining, ICCV 2025.
    """
    if list_size and key is None:
        raise ValueError(f"list_size: expected a key to sample the columns; found list_size={list_size} and key=None")
    embeddings = {"image": image_embedding, "text": text_embedding}

    def term(lists: Sequence[List]) -> jax.Array:
        def loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
            losses = list_rows(similarity, scalars["scale"], lists, variant, position_decay, list_size)
            return jnp.sum(losses, axis=0), {}

        step = Step(progress=0, key=key, mesh=mesh)
        return mean_over_rows(loss, embeddings, {"scale": scale}, step, chunk_size=chunk_size or 0)[0]

    return term(CROSS_MODAL), term(IN_MODAL)


def weighted_rows(similarity: Similarities, scale: jax.Array, options: RankingOptions) -> tuple[jax.Array, Metrics]:
    """Returns each row's weighted sum of both terms, and each term unweighted as metrics: ``[chunk]``."""
    scale = chosen_scale(options.ranking_scale, scale)
    list_options = (options.variant, options.position_decay, options.list_size or None)
    losses = list_rows(similarity, scale, (*CROSS_MODAL, *IN_MODAL), *list_options)
    cross_modal, in_modal = losses[0] + losses[1], losses[2] + losses[3]
    total = options.lambda_cross * cross_modal + options.lambda_in * in_modal
    return total, {"cross_modal": cross_modal, "in_modal": in_modal}


def list_rows(
    similarity: Similarities,
    scale: jax.Array,
    lists: Sequence[List],
    variant: Variant,
    position_decay: bool,
    list_size: int | None,
) -> jax.Array:
    """Returns each row's loss for each list: ``[lists, chunk]``.

    All lists are stacked and ranked at once: one sort of many rows uses a GPU better than many sorts of few rows.
    """
    scores = jnp.concatenate([similarity(*scored, list_size) for scored, _ in lists])
    relevance = jnp.concatenate([similarity(*ordering, list_size) for _, ordering in lists])
    losses = listmle(scale * scores, relevance, variant=variant, position_decay=position_decay)
    return losses.reshape(len(lists), -1) / RELEASED_DIVISOR / scores.shape[-1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _listmle(scores: jax.Array, relevance: jax.Array, variant: Variant, position_decay: bool) -> jax.Array:
    return _listmle_forward(scores, relevance, variant, position_decay)[0]


def _listmle_forward(
    scores: jax.Array, relevance: jax.Array, variant: Variant, position_decay: bool
) -> tuple[jax.Array, jax.Array]:
    order = descending_order(relevance)
    sorted_scores = jnp.take_along_axis(scores, order, axis=-1, mode="promise_in_bounds")
    loss, sorted_gradient = _plackett_luce(sorted_scores, variant, position_decay)
    rows = jnp.arange(scores.shape[0])[:, None]
    gradient = (
        jnp.zeros_like(scores).at[rows, order].set(sorted_gradient, unique_indices=True, mode="promise_in_bounds")
    )
    return loss, gradient


def _listmle_backward(
    variant: Variant, position_decay: bool, gradient: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, None]:
    return cotangent[:, None] * gradient, None


_listmle.defvjp(_listmle_forward, _listmle_backward)


def _plackett_luce(scores: jax.Array, variant: Variant, position_decay: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the loss ``[rows]`` and its gradient ``[rows, n]`` for scores ``[rows, n]`` already in their order."""
    positions = jnp.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    weights = 1 / jnp.log(positions + 1) if position_decay else jnp.ones_like(positions)
    shifted = scores - jnp.max(scores, axis=-1, keepdims=True)
    if variant == "released":
        sums = cumulative_sum(jnp.exp(shifted), reverse=True) + RELEASED_EPSILON
        log_sums = jnp.log(sums)
        gradient = jnp.exp(shifted) * cumulative_sum(weights / sums) - weights
        # The maximum depends on the scores too, and the epsilon keeps its gradient from cancelling.
        is_top = shifted == 0
        share = is_top / jnp.sum(is_top, axis=-1, keepdims=True)
        gradient += share * jnp.sum(weights * RELEASED_EPSILON / sums, axis=-1, keepdims=True)
    else:
        windows = (-jnp.min(shifted) / _WINDOW).astype(jnp.int32) + 1
        log_sums = _log_tail_sums(shifted, windows)
        gradient = _tail_shares(shifted, log_sums, weights, windows) - weights
    return jnp.sum(weights * (log_sums - shifted), axis=-1), gradient


def _log_tail_sums(shifted: jax.Array, windows: jax.Array) -> jax.Array:
    """Returns ``log sum_{j >= k} exp(shifted_j)`` for scores at or below zero: ``[rows, n]``."""

    def inside(window: jax.Array | int) -> jax.Array:
        """Returns the logarithm of the sum over only the terms in a window."""
        base = _WINDOW * window
        terms = jnp.where((shifted <= -base) & (shifted > -base - _WINDOW), jnp.exp(shifted + base), 0)
        return jnp.log(cumulative_sum(terms, reverse=True)) - base

    def join(window: jax.Array, log_sums: jax.Array) -> jax.Array:
        return jnp.logaddexp(log_sums, inside(window))

    return jax.lax.fori_loop(1, windows, join, inside(0))


def _tail_shares(shifted: jax.Array, log_sums: jax.Array, weights: jax.Array, windows: jax.Array) -> jax.Array:
    """Returns ``exp(shifted_k) sum_{j <= k} weights_j exp(-log_sums_j)``: ``[rows, n]``."""

    def inside(window: jax.Array | int) -> jax.Array:
        """Returns the contribution of the positions whose tail sums are in a window."""
        base = _WINDOW * window
        among = (log_sums > -base - _WINDOW) & ((log_sums <= -base) | (window == 0))
        sums = cumulative_sum(jnp.where(among, weights * jnp.exp(-log_sums - base), 0))
        return jnp.exp(jnp.minimum(shifted + base, 0)) * sums  # where the exponent is positive, the sum is empty

    def add(window: jax.Array, shares: jax.Array) -> jax.Array:
        return shares + inside(window)

    return jax.lax.fori_loop(1, windows, add, inside(0))


def cumulative_sum(x: jax.Array, reverse: bool = False) -> jax.Array:
    """Returns cumulative sums along the last axis, by triangular matrix products within blocks and a sum of totals.

    Args:
      x: ``[rows, n]``.
      reverse: sum from the end.
    """
    rows, size = x.shape
    blocks = -(-size // _BLOCK)
    x = jnp.pad(x, ((0, 0), (0, blocks * _BLOCK - size))).reshape(rows, blocks, _BLOCK)
    triangle = np.tri(_BLOCK, dtype=x.dtype)
    within = jnp.matmul(x, triangle if reverse else triangle.T, precision=jax.lax.Precision.HIGHEST)
    totals = within[..., 0 if reverse else -1]
    before = jax.lax.cumsum(totals, axis=1, reverse=reverse)
    # Shifted by one block; a subtraction instead would cancel a small tail against a large head.
    before = jnp.pad(before[:, 1:], ((0, 0), (0, 1))) if reverse else jnp.pad(before[:, :-1], ((0, 0), (1, 0)))
    return (within + before[..., None]).reshape(rows, -1)[:, :size]


def descending_order(values: jax.Array) -> jax.Array:
    """Returns the stable descending order of each row: int32 ``[rows, n]``; the positions of NaNs are unspecified."""
    columns = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    if values.dtype.itemsize == 8:
        return jax.lax.sort((-values, columns), dimension=1, num_keys=1, is_stable=True)[1]
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0, values.astype(jnp.float32)), jnp.int32)
    keys = jnp.where(bits < 0, bits & 0x7FFFFFFF, ~bits)
    return jax.lax.platform_dependent(keys, columns, cpu=_sort_packed, default=_sort_pairs)


def _sort_pairs(keys: jax.Array, columns: jax.Array) -> jax.Array:
    return jax.lax.sort((keys, columns), dimension=1, num_keys=1, is_stable=True)[1]


def _sort_packed(keys: jax.Array, columns: jax.Array) -> jax.Array:
    with jax.enable_x64(True):
        packed = (keys.astype(jnp.int64) << 32) | columns.astype(jnp.int64)
        return jax.lax.sort(packed, dimension=1, is_stable=False).astype(jnp.int32)
