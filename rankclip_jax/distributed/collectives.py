"""An exchange between devices that one platform cannot be trusted with, and what is done there instead.

On CPUs in several processes XLA leaves collectives to Gloo, whose reduce-scatter returns wrong values now and then
where a part has megabytes (https://github.com/jax-ml/jax/issues/40830): there all is summed, and each device cuts out
its own.
"""

import functools

import jax

Axes = str | tuple[str, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def all_gather(part: jax.Array, axes: Axes, dimension: int = 0) -> jax.Array:
    """The whole of an array from the parts that devices own; its gradient is summed into the parts.

    Args:
      part: this device's.
      axes: of the mesh, over which the array is split.
      dimension: along which it is split.
    """
    return jax.lax.all_gather(part, axes, axis=dimension, tiled=True)


def reduce_scatter(whole: jax.Array, axes: Axes, dimension: int = 0) -> jax.Array:
    """The sum over devices of their arrays, of which each is given its own part.

    Args:
      whole: this device's array.
      axes: of the mesh, over which the sum goes.
      dimension: along which it is split.
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
