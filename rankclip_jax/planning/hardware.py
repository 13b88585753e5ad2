"""Accelerator specifications, from the makers' data sheets and from the devices themselves."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """The specification of a device and its links; rates are peaks per second.

    Args:
      name: the maker's name.
      memory: bytes that programs can use.
      bandwidth: bytes per second to and from memory.
      flops: dense FLOP/s by dtype of the operands, with float32 accumulation.
      link: bytes per second to neighbours in the host or slice, in each direction.
      network: bytes per second to other hosts or slices, in each direction.
    """

    name: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    link: float
    network: float


@dataclasses.dataclass(frozen=True)
class Gpu(Accelerator):
    """An NVIDIA GPU, with the properties that XLA's compiler needs.

    Args:
      capability: compute capability.
      cores: number of streaming multiprocessors.
      lanes: float32 units per multiprocessor.
      clock: clock rate in GHz.
      cache: bytes of L2 cache.
      shared: maximum bytes of shared memory per block and per multiprocessor.
      threads: maximum threads per multiprocessor.
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
      label: its accelerator label in Google Kubernetes Engine.
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
    """Returns whether a device multiplies matrices faster in bfloat16 than in float32.

    This holds for TPUs, and for GPUs with bfloat16 matrix units: NVIDIA's from compute capability 8.0. It does not hold
    for CPUs, where XLA multiplies at the rate of float32, even with AVX512-BF16 (docs/benchmarks.md).
    """
    if device.platform == "tpu":
        return True
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return device.platform == "gpu" and (
        int(major) >= 8 if major.isdecimal() else True
    )  # AMD's are not numbers: gfx942


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak bfloat16 FLOP/s of a device; None: unknown device.

    Args:
      device_kind: the device's kind, as JAX names it.
    """
    key = _TPU_KINDS.get(device_kind)
    matches = [device for name, device in ACCELERATORS.items() if device_kind == device.name or name == key]
    return matches[0].flops["bfloat16"] if matches else None
