"""What the environments of launchers say of a process's place."""

import pytest

from rankclip_jax.distributed.start_up import ProcessPlacement, place_in
from rankclip_jax.input_pipeline.errors import UserError

SLURM = {"SLURM_JOB_ID": "5000", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "9",
         "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-09,12],cpu1", "SLURM_NTASKS": "16"}  # fmt: skip
JAX = {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SKYPILOT = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n"}
JOBSET = {"JAX_COORDINATOR_ADDRESS": "a-workers-0-0.a:8476", "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"JAX_NUM_PROCESSES": "1"}, None),
        (JAX, ProcessPlacement("JAX_NUM_PROCESSES", 4, 3, "host:1234")),
        (JAX | {"JAX_LOCAL_DEVICE_IDS": "2,3"}, ProcessPlacement("JAX_NUM_PROCESSES", 4, 3, "host:1234", (2, 3))),
        (JOBSET, ProcessPlacement("JAX_NUM_PROCESSES", 2, 1, "a-workers-0-0.a:8476")),
        (SKYPILOT, ProcessPlacement("SkyPilot", 2, 1, "10.0.0.1:8476")),
        (SLURM, ProcessPlacement("SLURM", 16, 9, "gpu07:62344")),
        # Eight tasks of a node see the same eight GPUs, or each its own.
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, ProcessPlacement("SLURM", 16, 9, "gpu07:62344", (1,))),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, ProcessPlacement("SLURM", 16, 9, "gpu07:62344")),
        # One task a node takes all that it sees.
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "CUDA_VISIBLE_DEVICES": "0,1"},
            ProcessPlacement("SLURM", 2, 1, "gpu07:62344"),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ProcessPlacement("Open MPI", 2)),
    ],
)
def test_each_launcher_is_understood(environment, place):
    assert place_in(environment) == place


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS: not set"),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, "JAX_NUM_PROCESSES: not set"),
        (JAX | {"JAX_PROCESS_ID": "4"}, "expected a process number from 0 to 3 for 4 processes; found 4"),
        (JAX | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID: expected a whole number; found 'one'"),
        (SKYPILOT | {"SKYPILOT_NODE_IPS": "10.0.0.1"}, "SKYPILOT_NODE_IPS: expected 2 addresses"),
        ({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "8"}, "SLURM_NTASKS: this job has 8 tasks"),
    ],
)
def test_never_silently_fewer_than_asked(environment, said):
    with pytest.raises(UserError, match=said):
        place_in(environment)
