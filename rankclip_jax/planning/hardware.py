"""Accelerators as data: what their makers' sheets and the devices themselves say of them."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device and its links; rates are peaks, a second.

    Args:
      name: as its maker writes it.
      memory: bytes that programs can use.
      bandwidth: bytes from and to memory.
      flops: by type of the operands, dense, with float32 sums.
      link: bytes to neighbours in the host or the slice, in each direction.
      network: bytes to other hosts or slices, in each direction.
    """

    name: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    link: float
    network: float


@dataclasses.dataclass(frozen=True)
class Gpu(Accelerator):
    """An NVIDIA GPU, with what XLA's compiler asks of it.

    Args:
      capability: compute capability.
      cores: streaming multiprocessors.
      lanes: float32 units of each.
      clock: gigahertz.
      cache: bytes of level 2.
      shared: bytes of shared memory, at most, of a block and of a core.
      threads: of a core.
    """

    capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    cache: int
    shared: tuple[int, int]
    threads: int = 2048


@dataclasses.dataclass(frozen=True)
class Tpu(Accelerator):
    """A TPU chip.

    Args:
      label: of its kind of node in Google's Kubernetes Engine.
    """

    label: str


GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", 84_987_740_160, 2.039e12, {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
        300e9, 25e9, (8, 0), 108, 64, 1.41, 41_943_040, (166_912, 167_936),
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", 85_014_413_312, 3.35e12, {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12},
        450e9, 50e9, (9, 0), 132, 128, 1.98, 52_428_800, (232_448, 233_472),
    ),
    "h200": Gpu(
        "NVIDIA H200", 151_397_597_184, 4.8e12, {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12},
        450e9, 50e9, (9, 0), 132, 128, 1.98, 52_428_800, (232_448, 233_472),
    ),
    "b200": Gpu(
        "NVIDIA B200", 192_265_846_784, 7.7e12, {"bfloat16": 2250e12, "tf32": 1125e12, "float32": 75e12},
        900e9, 50e9, (10, 0), 148, 128, 1.965, 132_644_864, (232_448, 233_472),
    ),
    "l40s": Gpu(
        "NVIDIA L40S", 48_305_799_168, 0.864e12, {"bfloat16": 362e12, "tf32": 183e12, "float32": 91.6e12},
        32e9, 25e9, (8, 9), 142, 128, 2.52, 100_663_296, (101_376, 102_400), threads=1536,
    ),
}  # fmt: skip

TPUS = {
    "v5e": Tpu(
        "TPU v5e", 16_911_433_728, 0.819e12, {"bfloat16": 197e12, "tf32": 98e12, "float32": 33e12},
        100e9, 6.25e9, "tpu-v5-lite-podslice",
    ),
    "v5p": Tpu(
        "TPU v5p", 102_803_439_616, 2.765e12, {"bfloat16": 459e12, "tf32": 230e12, "float32": 76e12},
        300e9, 12.5e9, "tpu-v5p-slice",
    ),
    "v6e": Tpu(
        "TPU v6e", 33_550_237_696, 1.64e12, {"bfloat16": 918e12, "tf32": 459e12, "float32": 153e12},
        200e9, 12.5e9, "tpu-v6e-slice",
    ),
}  # fmt: skip

ACCELERATORS: dict[str, Accelerator] = {**GPUS, **TPUS}

_TPU_KINDS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}  # as JAX names them


def has_fast_bfloat16(device: "jax.Device") -> bool:
    """Whether a device multiplies matrices faster in bfloat16 than in float32.

    TPUs do, and GPUs with matrix units for it: NVIDIA's from compute capability 8.0 on. CPUs do not: XLA multiplies at
    the rate of float32 there, on those with AVX512-BF16 too (docs/benchmarks.md).
    """
    if device.platform == "tpu":
        return True
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return device.platform == "gpu" and (int(major) >= 8 if major.isdecimal() else True)  # AMD's are words: gfx942


def peak_flops(device_kind: str) -> float | None:
    """Of one device, a second, for bfloat16; None: it is not described here.

    Args:
      device_kind: as JAX names it.
    """
    name = _TPU_KINDS.get(device_kind)
    found = [one for key, one in ACCELERATORS.items() if device_kind == one.name or key == name]
    return found[0].flops["bfloat16"] if found else None
