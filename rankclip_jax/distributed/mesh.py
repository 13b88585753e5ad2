"""The device mesh of a run: its axes for data parallelism and for sharded weights."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError

REPLICA, DATA, FSDP = AXES = ("replica", "data", "fsdp")


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh ``[replica, data, fsdp]`` for the settings under ``config.mesh``.

    A batch is split over all three axes, weights and optimizer state over ``fsdp``. Neighbours along ``fsdp`` are
    devices of one host or TPU slice if it has enough of them; ``replica`` crosses hosts or slices.

    Args:
      config: ``replica``, ``data`` and ``fsdp``; with ``data=-1`` it is inferred from the number of devices.
      devices: the devices to use; None: those of all processes.

    Raises:
      UserError: the product of the axes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = axis_sizes(config, len(devices))
    return Mesh(_in_order(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_local_mesh() -> Mesh:
    """Returns a mesh of only this process's devices, over which batches are split."""
    return Mesh(np.asarray(jax.local_devices()), (DATA,), axis_types=(AxisType.Auto,))


def axis_sizes(config: ConfigDict, device_count: int) -> tuple[int, int, int]:
    """Returns the number of devices along each axis.

    Raises:
      UserError: their product is not the number of devices.
    """
    fixed = config.replica * config.fsdp
    data = device_count // fixed if config.data == -1 else config.data
    if data < 1 or fixed * data != device_count:
        sizes = f"replica={config.replica}, data={config.data}, fsdp={config.fsdp}"
        raise UserError(
            f"config.mesh: {sizes}: expected a product of {device_count}, the number of devices. Use "
            f"--config.mesh.data=-1, with replica x fsdp a divisor of {device_count}."
        )
    return config.replica, data, config.fsdp


def _in_order(devices: list[jax.Device], shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the devices as a grid; on TPUs, neighbours in the grid are neighbours in the network."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if devices[0].platform == "tpu" and len(slices) > 1 and shape[0] % len(slices) == 0:
        inside = (shape[0] // len(slices), *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(inside, (len(slices), 1, 1), devices)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(shape, devices)
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return np.asarray(ordered).reshape(shape)
