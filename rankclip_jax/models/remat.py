"""What a backward pass finds again and what it computes again, by name."""

from typing import Any

import flax.linen as nn
import jax

# Work that is worth keeping: products with weights, and what has crossed the network.
_KEPT = ("conv_general_dilated", "psum", "psum_invariant")


def _is_dear(primitive: Any, *operands: Any, **parameters: Any) -> bool:
    """Whether an operation's result is kept: products within attention, whose rows each have their own, are not."""
    del operands
    if primitive.name == "dot_general":
        (_, _), (batch, _) = parameters["dimension_numbers"]
        return not batch
    return primitive.name in _KEPT


# For each name, which results of a block are kept beside its input.
POLICIES = {"cheap": _is_dear, "blocks": jax.checkpoint_policies.nothing_saveable}
CHOICES = ("none", *POLICIES)


def rematted(block: type[nn.Module], choice: str, *, in_loop: bool = False, static: tuple[int, ...] = ()) -> Any:
    """The block's class, which computes again in the backward pass what the choice says.

    Args:
      block: a module's class.
      choice: ``"none"``, ``"cheap"``: all but matrix products and convolutions, or ``"blocks"``: everything.
      in_loop: whether it is the body of a loop, whose bounds keep the compiler from undoing this.
      static: places of arguments that are not traced, the module itself being 0.
    """
    if choice == "none":
        return block
    return nn.remat(block, policy=POLICIES[choice], prevent_cse=not in_loop, static_argnums=static)
