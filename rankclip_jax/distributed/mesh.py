"""The devices of a run in a grid: which of them share a batch, and which share the weights."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError

REPLICA, DATA, FSDP = AXES = ("replica", "data", "fsdp")


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The grid ``[replica, data, fsdp]`` that the settings under ``config.mesh`` ask for.

    A batch is split over all three axes, weights and optimiser state over ``fsdp``. Neighbours along ``fsdp`` are
    devices of one host or TPU slice as far as it has enough of them; ``replica`` is what crosses hosts or slices.

    Args:
      config: ``replica``, ``data`` and ``fsdp``, of which ``data`` may be -1: what the others leave.
      devices: these; None: all of all processes.

    Raises:
      UserError: the axes do not make up the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = axis_sizes(config, len(devices))
    return Mesh(_in_order(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_local_mesh() -> Mesh:
    """The devices of this process alone, which share batches."""
    return Mesh(np.asarray(jax.local_devices()), (DATA,), axis_types=(AxisType.Auto,))


def axis_sizes(config: ConfigDict, device_count: int) -> tuple[int, int, int]:
    """Devices along each axis.

    Raises:
      UserError: their product is not the number of devices.
    """
    fixed = config.replica * config.fsdp
    data = device_count // fixed if config.data == -1 else config.data
    if data < 1 or fixed * data != device_count:
        asked = f"replica={config.replica}, data={config.data}, fsdp={config.fsdp}"
        raise UserError(
            f"config.mesh: {asked} do not make up {device_count} device(s). Take numbers whose product is "
            f"{device_count}, or --config.mesh.data=-1 with replica x fsdp a divisor of it."
        )
    return config.replica, data, config.fsdp


def _in_order(devices: list[jax.Device], shape: tuple[int, int, int]) -> np.ndarray:
    """The devices as a grid; those of a TPU slice so that neighbours in it are neighbours in the network."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if devices[0].platform == "tpu" and len(slices) > 1 and shape[0] % len(slices) == 0:
        inside = (shape[0] // len(slices), *shape[1:])
        return mesh_utils.create_hybrid_device_mesh(inside, (len(slices), 1, 1), devices)
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(shape, devices)
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return np.asarray(ordered).reshape(shape)
