"""Execution options of encoders: dtype, remat, layer scan and attention kernel."""

import dataclasses

import jax.numpy as jnp

_UNROLLED_LAYERS = 12  # the deepest stack that is unrolled on GPUs
_FLOAT32 = jnp.dtype("float32")


@dataclasses.dataclass(frozen=True)
class Execution:
    """How an encoder is computed, apart from its sizes.

    Args:
      dtype: compute dtype; parameters are always float32.
      activation: a key of `activations.ACTIVATIONS`.
      scan_layers: whether to compile one block and scan over the layers, which keeps compile time and code small.
        Unrolling instead saves copies of weights, gradients and saved activations. None: see `loops_over`.
      remat: which activations the backward pass recomputes, see `remat.rematted`.
      attention: one of `attention.IMPLEMENTATIONS`; XLA's where the platform or ``dtype`` supports no other.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``, where it is computed.
      axes: mesh axes over which batch statistics are reduced, where each device computes its own rows of a batch.
    """

    dtype: jnp.dtype = _FLOAT32
    activation: str = "quick_gelu"
    scan_layers: bool | None = None
    remat: str = "none"
    attention: str = "auto"
    platform: str = "cpu"
    axes: tuple[str, ...] = ()

    def loops_over(self, layers: int) -> bool:
        """Returns whether to scan a stack of this many layers.

        By default: always on TPUs, never on CPUs, and on GPUs for deep stacks, which compile slowly when unrolled.
        """
        if self.scan_layers is not None:
            return self.scan_layers
        return self.platform == "tpu" or (self.platform == "gpu" and layers > _UNROLLED_LAYERS)
