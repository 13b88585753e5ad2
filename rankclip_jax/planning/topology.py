"""Topologies: descriptions of devices that need not be attached, for ahead-of-time compilation on any machine.

Commands that use them call `platform.set_variables_to_plan` first.
"""

import dataclasses
import re
from typing import Any

import jax
from jax.experimental import topologies

from rankclip_jax.distributed.platform import COMPILER_OPTIONS
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.planning.hardware import ACCELERATORS, GPUS, Accelerator, Gpu

_EXAMPLES = "such as h200:1x8 (hosts x GPUs) or v5e:16x16 (a TPU slice)"


@dataclasses.dataclass(frozen=True)
class Topology:
    """The kind and arrangement of devices.

    Args:
      name: the requested name, such as ``h200:8x8``.
      kind: a key of `ACCELERATORS`.
      shape: hosts and GPUs of each, or the sides of a TPU slice.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def accelerator(self) -> Accelerator:
        """The specification of one device."""
        return ACCELERATORS[self.kind]

    @property
    def is_gpu(self) -> bool:
        """Whether the devices are GPUs; otherwise they are TPUs."""
        return self.kind in GPUS

    def devices(self) -> list[jax.Device]:
        """Returns descriptions of the devices, for which programs can be compiled but not run.

        Raises:
          UserError: their compiler is not installed, or does not support the arrangement.
        """
        try:
            return self._gpus() if self.is_gpu else self._tpus()
        except (NotImplementedError, RuntimeError, ValueError, ImportError) as error:
            package = '"jax[cuda13]"' if self.is_gpu else "libtpu"
            raise UserError(
                f"--topology: cannot compile for {self.name}: {str(error).splitlines()[0]}. This needs only the "
                f"compiler of these devices, not the devices. Run: pip install {package} (make plan installs both)"
            ) from error

    @property
    def compiler_options(self) -> dict[str, Any]:
        """The platform's compiler options; on GPUs without autotuning, which would need the devices."""
        if not self.is_gpu:
            return COMPILER_OPTIONS["tpu"]
        return COMPILER_OPTIONS["gpu"] | {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": False}

    def _gpus(self) -> list[jax.Device]:
        hosts, devices = self.shape
        return list(
            topologies.get_topology_desc(
                platform="cuda",
                topology_name=self.kind,
                target_config=_target(GPUS[self.kind]),
                topology=f"{hosts}x1x{devices}",
            ).devices
        )

    def _tpus(self) -> list[jax.Device]:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=self.name).devices)


def topology_of(name: str) -> Topology:
    """Returns the topology with a name of the form ``KIND:AxB``.

    Raises:
      UserError: the name has another form, or the device is unknown.
    """
    match = re.fullmatch(r"(\w+):([1-9]\d{0,3}(?:x[1-9]\d{0,3}){1,2})", name)
    if not match:
        raise UserError(f"--topology: expected KIND:HOSTSxGPUS or KIND:SLICE, {_EXAMPLES}; found {name!r}.")
    kind, shape = match[1], tuple(map(int, match[2].split("x")))
    if kind not in ACCELERATORS:
        raise UserError(f"--topology: unknown device {kind!r}; choose from {', '.join(ACCELERATORS)}.")
    if kind in GPUS and len(shape) != 2:
        raise UserError(f"--topology: expected hosts x GPUs per host, such as {kind}:8x8; found {name!r}.")
    return Topology(name, kind, shape)


def _target(gpu: Gpu) -> str:
    """Returns the GPU's description for XLA's compiler, a GpuTargetConfigProto as text."""
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
  core_count: {gpu.cores}  fpus_per_core: {gpu.lanes}  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}  memory_bandwidth: {gpu.bandwidth:.0f}  l2_cache_size: {gpu.cache}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared[0]}  shared_memory_per_core: {gpu.shared[1]}
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  threads_per_block_limit: 1024  threads_per_core_limit: {gpu.threads}  threads_per_warp: 32
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.name}"
"""
