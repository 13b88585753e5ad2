"""Remat policies by name: which activations the backward pass reads from memory and which it recomputes."""

from typing import Any

import flax.linen as nn
import jax

# Operations that are expensive to recompute: convolutions and cross-device sums (and products with weights, see below).
_KEPT = ("conv_general_dilated", "psum", "psum_invariant")


def _is_expensive(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """Returns whether an operation's result is saved: batched products, as within attention, are recomputed."""
    del operands
    if primitive.name == "dot_general":
        (_, _), (batch, _) = parameters["dimension_numbers"]
        return not batch
    return primitive.name in _KEPT


# For each name, the policy that selects which results of a block are saved besides its input.
POLICIES = {"cheap": _is_expensive, "blocks": jax.checkpoint_policies.nothing_saveable}
CHOICES = ("none", *POLICIES)


def rematted(block: type[nn.Module], choice: str, *, in_loop: bool = False, static: tuple[int, ...] = ()) -> Any:
    """Returns the block's class with remat applied.

    Args:
      block: a module's class.
      choice: what the backward pass recomputes: ``"none"``, ``"cheap"``: all but matrix products and convolutions, or
        ``"blocks"``: everything.
      in_loop: whether the block is the body of a loop, which already keeps the compiler from undoing remat by CSE.
      static: indices of arguments that are not traced; the module itself is 0.
    """
    if choice == "none":
        return block
    return nn.remat(block, policy=POLICIES[choice], prevent_cse=not in_loop, static_argnums=static)
