"""What shorter numbers cost: float32 products as matrix units add them up, emulated, beside float64.

`python -m tests.objectives.test_precision` prints the table of docs/objectives.md.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step, pairwise, products
from rankclip_jax.recipes import base
from tests.objectives.numpy_reference import unit_rows

# Bits of the mantissa that are stored, into how many numbers an operand is split, and the products that are left out:
# those of the smallest parts. cuBLAS' and XLA's TF32 and bfloat16 have 10 and 7 bits.
SPLITS = {
    "tf32": (10, 1, 0),
    "tf32_x3": (10, 2, 1),
    "bf16": (7, 1, 0),
    "bf16_x3": (7, 2, 1),
    "bf16_x6": (7, 3, 2),
}


def emulated(bits, parts, largest):
    """A product of operands split into parts, of which those whose places add up to at most ``largest`` are kept."""

    def split(x):
        for _ in range(parts):
            part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)
            yield part
            x = x - part

    def multiply(x, y):
        pairs = itertools.product(enumerate(split(x)), enumerate(split(y)))
        kept = sorted(((i + j, a, b) for (i, a), (j, b) in pairs if i + j <= largest), key=lambda one: -one[0])
        return sum(jnp.matmul(a, b, precision="highest") for _, a, b in kept)

    @jax.custom_vjp
    def product(rows, columns, sums):
        return multiply(rows, columns.T)

    product.defvjp(
        lambda rows, columns, sums: (multiply(rows, columns.T), (rows, columns)),
        lambda kept, gradient: (multiply(gradient, kept[1]), None, multiply(gradient.T, kept[0])),
    )
    return lambda rows, columns, sums, precision: product(rows, columns, sums)


def gradients(objective, size, width, dtype, scale, patch=None, precision="highest"):
    """Of the loss by both embeddings and the scale, as float64 vectors."""
    config = base().objective
    config.precision = precision
    method = OBJECTIVES[objective].from_config(config)
    image = unit_rows(0, size, width)
    text = image + 2 * unit_rows(1, size, width)
    text /= np.linalg.norm(text, axis=1, keepdims=True)

    def loss(image, text, scale):
        scalars = {"scale": scale, **method.parameters()}
        step = Step(1.0, jax.random.key(0))
        return method.loss(Outputs({"image": image, "text": text}, scalars), step).loss

    with pytest.MonkeyPatch.context() as change:
        if patch:
            change.setattr(pairwise, "product", patch)
        arguments = [jnp.asarray(value, dtype) for value in (image, text, scale)]
        found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
    return [np.asarray(value, np.float64).ravel() for value in found]


def error(found, expected):
    """The largest relative error of a gradient, by its norm."""
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True))


def errors(objective, size, width, scale):
    with jax.enable_x64(True):
        exact = gradients(objective, size, width, jnp.float64, scale)
    for name in ("highest", "f16_x3"):
        yield name, error(gradients(objective, size, width, jnp.float32, scale, precision=name), exact)
    for name, split in SPLITS.items():
        yield name, error(gradients(objective, size, width, jnp.float32, scale, emulated(*split)), exact)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["clip", "rankclip"])
def test_what_is_the_default_on_gpus_is_as_exact_as_float32_and_what_is_faster_is_not(objective):
    """At the largest scale that training reaches, where errors are largest: float32 itself is off by about 1e-5."""
    found = dict(errors(objective, 1024, 512, 100))
    assert found["f16_x3"] < max(1e-5, 3 * found["highest"])
    assert found["tf32_x3"] < max(1e-5, 3 * found["highest"])
    assert found["bf16_x6"] < 1e-5
    assert 1e-5 < found["bf16_x3"] < found["tf32"] < found["bf16"]


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1.0, 3e4, 1e30])
def test_products_in_halves_are_as_exact_as_float32_at_any_magnitude(magnitude):
    """Columns of any size, of which some are much smaller than others, against float64."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.normal(size=(count, 64)).astype(np.float32) for count in (5, 40))
    columns *= np.float32(magnitude) * np.exp2(-rng.integers(0, 12, (40, 1))).astype(np.float32)

    def product(rows, sums):
        return products.product(rows, products.prepare(jnp.asarray(columns), "f16_x3"), sums, "f16_x3")

    found, pull_back = jax.vjp(product, jnp.asarray(rows), jnp.zeros_like(columns))
    gradient = rng.normal(size=found.shape).astype(np.float32)
    gradient[:, ::2] *= 1e-5
    of_rows, of_columns = pull_back(jnp.asarray(gradient))
    exact = [np.asarray(x, np.float64) for x in (rows, columns, gradient)]
    for ours, expected, bound in (
        (found, exact[0] @ exact[1].T, np.abs(exact[0]) @ np.abs(exact[1]).T),
        (of_rows, exact[2] @ exact[1], np.abs(exact[2]) @ np.abs(exact[1])),
        (of_columns, exact[2].T @ exact[0], np.abs(exact[2]).T @ np.abs(exact[0])),
    ):
        # A float32 sum is off by some 2^-22 of the magnitudes that it adds; what is split, by that of the largest.
        assert np.max(np.abs(np.asarray(ours, np.float64) - expected)) < 2**-20 * np.max(bound)


def test_products_of_zeros_in_halves_are_zero():
    zeros = jnp.zeros((3, 8))
    np.testing.assert_array_equal(products.product(zeros, products.prepare(zeros, "f16_x3"), None, "f16_x3"), 0)


def test_a_precision_that_the_devices_do_not_have_is_refused():
    config = base().objective
    config.precision = "tf32_x3"
    rows = {"image": jnp.ones((4, 8)), "text": jnp.ones((4, 8))}
    with pytest.raises(UserError, match=r"config\.objective\.precision: tf32_x3 needs an NVIDIA GPU; found cpu"):
        OBJECTIVES["clip"].from_config(config).loss(Outputs(rows, {"scale": 1.0}), Step(0.5, jax.random.key(0)))


if __name__ == "__main__":
    columns = [(objective, scale) for scale in (1 / 0.07, 100) for objective in ("clip", "rankclip")]
    print("| precision |", " | ".join(f"{objective}, scale {scale:.3g}" for objective, scale in columns), "|")
    print("|---" * 5, "|", sep="")
    for row in zip(*(errors(objective, 1024, 512, scale) for objective, scale in columns), strict=True):
        print(f"| `{row[0][0]}` |", " | ".join(f"{found:.1e}" for _, found in row), "|", flush=True)
