"""How encoders are computed, apart from their sizes."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

_UNROLLED_LAYERS = 12  # on GPUs, at most
_FLOAT32 = jnp.dtype("float32")


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation, ``x sigmoid(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How an encoder is computed, apart from its sizes.

    Args:
      dtype: type of the computation; parameters are float32 whatever it is.
      activation: a key of `ACTIVATIONS`.
      scan_layers: compile one block and loop over the layers, which keeps compile time and code small; otherwise the
        loop is unrolled, which saves copies of weights, gradients and what the backward pass keeps. None: see
        `loops_over`.
      remat: what the backward pass computes again, see `remat.rematted`.
      attention: one of `attention.IMPLEMENTATIONS`; XLA's where the platform or ``dtype`` has no other.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``, where it is computed.
      axes: of the mesh, if each device computes its own rows of a batch: normalisation by its statistics crosses them.
    """

    dtype: jnp.dtype = _FLOAT32
    activation: str = "quick_gelu"
    scan_layers: bool | None = None
    remat: str = "none"
    attention: str = "auto"
    platform: str = "cpu"
    axes: tuple[str, ...] = ()

    def loops_over(self, layers: int) -> bool:
        """Whether a stack of so many layers is a loop: on CPUs never, on GPUs where unrolling it compiles for long."""
        if self.scan_layers is not None:
            return self.scan_layers
        return self.platform == "tpu" or (self.platform == "gpu" and layers > _UNROLLED_LAYERS)
