"""Devices that are not here: descriptions to compile for, ahead of time, on any machine.

GPU descriptions hold what XLA's compiler asks of a device, from NVIDIA's data sheet and the device's own report.
"""

import os
import re

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from input_pipeline.errors import UserError
from rankclip_jax.parallel.layout import DATA_AXIS

_H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  device_memory_size: 151397597184  memory_bandwidth: 4800000000000  l2_cache_size: 52428800
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  threads_per_block_limit: 1024  threads_per_core_limit: 2048  threads_per_warp: 32
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""
_GPUS = {"h200": _H200}
_TPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


def mesh_of(topology: str) -> Mesh:
    """A data-parallel mesh over devices that need not exist; programs can be compiled for it, not run.

    Args:
      topology: ``h200:HOSTSxDEVICES``, such as ``h200:8x8``, or a TPU slice such as ``v5e:16x16``.

    Raises:
      UserError: no such device is described, or the compiler for it is not installed.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", topology)
    if not match:
        raise UserError(f"--topology: expected a form such as h200:1x8 or v5e:16x16; found {topology!r}.")
    kind, shape = match.groups()
    try:
        devices = _gpus(kind, shape) if kind in _GPUS else _tpus(topology)
    except (NotImplementedError, RuntimeError, ValueError, ImportError) as error:
        package = '"jax[cuda13]"' if kind in _GPUS else "libtpu"
        raise UserError(
            f"--topology: cannot compile for {topology}: {str(error).splitlines()[0]}. This needs the compiler of "
            f"these devices, not the devices: pip install {package}"
        ) from error
    return Mesh(np.asarray(devices).ravel(), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def compiler_options(topology: str) -> dict[str, str | bool]:
    """Options that let a program be compiled where its devices are not: nothing that would be tried out on them."""
    if topology.partition(":")[0] in _GPUS:
        return {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": False}
    return {}


def _gpus(kind: str, shape: str) -> list[jax.Device]:
    hosts, _, devices = shape.partition("x")
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # there is no driver to check
    description = topologies.get_topology_desc(
        platform="cuda", topology_name=kind, target_config=_GPUS[kind], topology=f"{hosts}x1x{devices or 1}"
    )
    return list(description.devices)


def _tpus(topology: str) -> list[jax.Device]:
    for name, value in _TPU_VARIABLES.items():
        os.environ.setdefault(name, value)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
