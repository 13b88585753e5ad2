"""All-gather and reduce-scatter, with a workaround for reduce-scatter on CPUs in several processes.

There XLA delegates collectives to Gloo, whose reduce-scatter sometimes returns wrong values for parts of megabytes
(https://github.com/jax-ml/jax/issues/40830). In that case `reduce_scatter` does an all-reduce, and each device slices
out its own part.
"""

import functools

import jax

Axes = str | tuple[str, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def all_gather(part: jax.Array, axes: Axes, dimension: int = 0) -> jax.Array:
    """All-gathers an array that is split over devices; the gradient is a reduce-scatter.

    Args:
      part: this device's part of the array.
      axes: the mesh axes over which the array is split.
      dimension: the array dimension that is split.
    """
    return jax.lax.all_gather(part, axes, axis=dimension, tiled=True)


def reduce_scatter(whole: jax.Array, axes: Axes, dimension: int = 0) -> jax.Array:
    """Sums arrays over devices, and returns this device's part of the sum.

    Args:
      whole: this device's array.
      axes: the mesh axes to sum over.
      dimension: the array dimension that is split.
    """
    if jax.process_count() == 1 or jax.default_backend() != "cpu":
        return jax.lax.psum_scatter(whole, axes, scatter_dimension=dimension, tiled=True)
    size = whole.shape[dimension] // jax.lax.axis_size(axes)
    summed = jax.lax.psum(whole, axes)
    return jax.lax.dynamic_slice_in_dim(summed, jax.lax.axis_index(axes) * size, size, dimension)


def _all_gather_forward(part: jax.Array, axes: Axes, dimension: int) -> tuple[jax.Array, None]:
    return all_gather(part, axes, dimension), None


def _all_gather_backward(axes: Axes, dimension: int, kept: None, gradient: jax.Array) -> tuple[jax.Array]:
    del kept
    return (reduce_scatter(gradient, axes, dimension),)


all_gather.defvjp(_all_gather_forward, _all_gather_backward)
