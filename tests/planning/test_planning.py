"""What the planner reads in a program, compared with counts by hand and with what was asked for."""

import collections
import json
import math
import os
import re
import shlex
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from configs import demo
from rankclip_jax.distributed.mesh import AXES, make_mesh
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.planning import arithmetic, program, search_space
from rankclip_jax.planning.command import how_to_start
from rankclip_jax.planning.hardware import GPUS
from rankclip_jax.planning.plan import Plan, plan_step, useful_flops
from rankclip_jax.planning.topology import topology_of
from rankclip_jax.settings.recipe_files import names
from rankclip_jax.training.experiment import build_experiment
from rankclip_jax.training.state import abstract_state, create
from rankclip_jax.training.step import abstract_batch, make_step, trace_step, traced
from tests.planning.conftest import ROOT
from tests.training.conftest import TINY


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        yield


def test_operations_are_counted_through_loops_and_by_type():
    def work(x, weights, kernel):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, weights)
        y = jnp.matmul(x.astype(jnp.float32), x.astype(jnp.float32).T, precision=jax.lax.Precision.HIGHEST)
        image = jnp.ones((2, 8, 8, 3), jnp.bfloat16)
        convolved = jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y, convolved

    shapes = [(16, 32), (5, 32, 32), (2, 2, 3, 7)]
    traced = jax.jit(work).trace(*(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes))
    loop, convolution = 5 * 2 * 16 * 32 * 32, 2 * (2 * 4 * 4 * 7) * (2 * 2 * 3)
    assert arithmetic.flops(traced) == {"bfloat16": loop + convolution, "float32": 2 * 16 * 16 * 32}


def test_collectives_are_found_with_their_bytes_and_the_axis_that_they_cross():
    devices = np.asarray(jax.devices()).reshape(2, 2, 2)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)

    def exchange(x):
        x = jax.lax.psum(x, "replica")
        gathered = jax.lax.all_gather(x, ("data", "fsdp"), tiled=True)
        return jax.lax.scan(
            lambda y, _: (jax.lax.ppermute(y, "fsdp", [(0, 1), (1, 0)]), None), gathered, None, length=3
        )[0]

    rows = PartitionSpec(AXES)
    mapped = jax.shard_map(exchange, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    argument = jax.ShapeDtypeStruct((64, 4), jnp.float32, sharding=NamedSharding(mesh, rows))
    found = {row.kind: row for row in program.collectives(jax.jit(mapped).lower(argument).compile().as_text(), mesh)}
    own = 8 * 4 * 4
    assert (found["all-reduce"].axis, found["all-reduce"].bytes, found["all-reduce"].devices) == ("replica", own, 2)
    assert (found["all-gather"].axis, found["all-gather"].bytes) == ("data+fsdp", 4 * own)
    moved = found["collective-permute"]
    assert (moved.axis, moved.count, moved.bytes) == ("fsdp", 3, 3 * 4 * own)


# As the compiler of TPUs prints a loop of five turns, which stacks a result in its place beside another in fast memory.
_TPU = """
%stacks (a: f32[5,8,4], b: f32[8,4], i: s32[]) -> (f32[5,8,4], f32[8,4]) {
  %new = f32[1,8,4]{2,1,0:T(8,128)} bitcast(%b)
  %stack = f32[5,8,4]{2,1,0:T(8,128)} dynamic-update-slice(%a, %new, %i, %zero, %zero)
  ROOT %both = (f32[5,8,4]{2,1,0:T(8,128)}, f32[8,4]{1,0:T(8,128)S(1)}) tuple(%stack, %b)
}

%more (state: (s32[], f32[5,8,4], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[]{:T(512)} compare(%turn, %limit), direction=LT
}

%turned (state: (s32[], f32[5,8,4], f32[8,4])) -> (s32[], f32[5,8,4], f32[8,4]) {
  %fusion = (f32[5,8,4]{2,1,0:T(8,128)}, f32[8,4]{1,0:T(8,128)S(1)}) fusion(%a, %b, %i), kind=kLoop, calls=%stacks
  ROOT %next = (s32[], f32[5,8,4], f32[8,4]) tuple(%i, %a, %b)
}

ENTRY %main (w: f32[12,8,4]) -> f32[5,8,4] {
  %w = f32[12,8,4]{2,1,0:T(8,128)} parameter(0)
  %buffer = f32[5,8,4]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %begun = ((f32[12,8,4]{2,1,0}), f32[3,8,4]{2,1,0:T(8,128)}, s32[]) slice-start(%w), slice={[0:3], [0:8], [0:4]}
  %ended = f32[3,8,4]{2,1,0:T(8,128)} slice-done(%begun)
  %loop = (s32[], f32[5,8,4], f32[8,4]) while(%state), condition=%more, body=%turned
  ROOT %result = f32[5,8,4]{2,1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_bytes_are_those_that_are_written_to_memory_however_the_compiler_puts_it():
    assert program.bytes_written(_TPU) == 4 * (3 * 8 * 4 + 5 * 8 * 4)


@pytest.fixture(scope="module")
def planned():
    config = demo.get_config()
    config.model.name, config.optimizer.name, config.objective.name = "tiny", "adamw", "clip"
    config.train.global_batch_size = 64
    experiment = build_experiment(config, make_mesh(config.mesh), 10)
    return experiment, plan_step(traced(experiment), 1.0, GPUS["h200"], "cpu", 10**9)


def test_a_plan_has_the_bytes_of_the_state_and_the_gradients_collectives(planned):
    experiment, found = planned
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(experiment.abstract_variables()["params"]))
    assert found.bytes["parameters"] == 4 * count
    assert 8 * count <= found.bytes["optimizer"] <= 8 * count + 64
    assert found.bytes["batch"] == 8 * (32 * 32 * 3 + 24 * 4)
    summed = sum(row.bytes for row in found.collectives if row.kind == "all-reduce")
    assert 4 * count <= summed <= 4 * count + 256  # the gradients once, and a few numbers
    gathered = [row.bytes for row in found.collectives if row.kind == "all-gather"]
    assert gathered == [2 * 64 * 32 * 4]  # the embeddings of both, once
    assert {row.kind for row in found.collectives} == {"all-reduce", "all-gather", "reduce-scatter"}
    assert found.fits
    assert 0 < found.mfu <= 1
    assert found.to_dict()["fits"]


def test_operations_are_those_that_xla_counts():
    """It counts additions and functions of single numbers too, which are few beside a ViT's products."""
    config = demo.get_config()
    config.model.name, config.model.scan_layers, config.model.remat = "ViT-S-16", False, "none"
    config.optimizer.name, config.objective.name, config.train.global_batch_size = "adamw", "clip", 32
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    experiment = build_experiment(config, mesh, 10)
    traced = make_step(experiment).trace(abstract_state(experiment), abstract_batch(experiment))
    counted = sum(arithmetic.flops(traced).values())
    assert counted <= traced.lower().cost_analysis()["flops"] <= 1.01 * counted
    assert useful_flops(trace_step, experiment.config, list(experiment.layout.mesh.devices.flat)) == counted


def test_a_run_keeps_and_exchanges_what_its_plan_says(tmp_path):
    """By the runtime's own record of a step on eight devices, and the arrays that lie on one of them."""
    config = demo.get_config()
    config.model.name, config.optimizer.name, config.objective.name = "tiny", "adamw", "rankclip"
    config.train.global_batch_size, config.mesh.fsdp, config.mesh.replica = 64, 2, 2
    experiment = build_experiment(config, make_mesh(config.mesh), 10)
    found = plan_step(traced(experiment), 1.0, GPUS["h200"], "cpu", 10**9)
    state, step = create(experiment), make_step(experiment)
    batch = {
        name: jax.device_put(np.zeros(row.shape, row.dtype), row.sharding)
        for name, row in abstract_batch(experiment).items()
    }
    shards = [shard for leaf in jax.tree.leaves((state, batch)) for shard in leaf.addressable_shards]
    here = sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0])
    assert here == sum(found.bytes[part] for part in ("parameters", "optimizer", "batch"))
    compiled = step.lower(state, batch).compile()
    with jax.profiler.trace(tmp_path):
        jax.block_until_ready(compiled(state, batch))
    (path,) = tmp_path.rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event.name for plane in planes for line in plane.lines for event in line.events]
    names = collections.Counter(name.split(".")[0].replace("_", "-") for name in events)
    planned = collections.Counter()
    for row in found.collectives:
        planned[row.kind] += row.count
    assert {"all-reduce", "all-gather", "reduce-scatter"} <= planned.keys()
    assert {kind: names[kind] for kind in planned} == {kind: 8 * count for kind, count in planned.items()}


def test_the_largest_batch_is_found_to_a_few_percent():
    """With memory of 3 GB and 7 MB a pair, and room for 80."""

    def planner(config):
        size = config.train.global_batch_size
        total = 3 * 10**9 + 7 * 10**6 * size
        return Plan("t", {}, {}, size, {"total": total, "capacity": 80 * 10**9})

    best, tried = search_space.largest_batch(demo.get_config(), planner, multiple=8)
    assert 0.95 * 11_000 <= best.pairs <= 11_000
    assert best.pairs % 8 == 0
    assert len(tried) <= 8


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("h200:1x8", r"python -m rankclip_jax.train (.*)"),
        ("h200:4x8", r"sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh (.*)"),
        ("v5e:16x16", r"IMAGE=YOURS (launch/kubernetes.sh tpu .* 1 -- .*) \| kubectl apply -f -"),
    ],
)
def test_the_command_that_starts_the_run_is_one_that_the_launchers_take(name, form):
    found = re.fullmatch(form, how_to_start(topology_of(name), "configs/cc3m.py", {"train.accumulation": 4}))[1]
    assert found.endswith("--config configs/cc3m.py --config.train.accumulation=4")
    if found.startswith("launch"):
        done = subprocess.run(
            shlex.split(found), cwd=ROOT, env=os.environ | {"IMAGE": "i"}, capture_output=True, text=True, check=True
        )
        assert yaml.safe_load(done.stdout)["kind"] == "JobSet"


H200, H100 = ["--topology", "h200:1x1"], ["--topology", "h100:1x1"]
AT_32K = "--config.train.global_batch_size=32768"


@pytest.mark.planned
@pytest.mark.parametrize(
    "words",
    [
        *(["--config", name, *H200, "--memory", "80", "--config.data.train=x.csv"] for name in names()),
        ["--config", "csv", *H200, "--memory", "24", "--config.data.train=x.csv"],
        ["--config", "cc3m", *H100, AT_32K, "--config.model.remat=cheap", "--config.train.accumulation=16"],
        ["--config", "cc3m", "--topology", "h200:8x8", AT_32K, "--config.model.name=ViT-L-14",
         "--config.model.remat=cheap"],
    ],
)  # fmt: skip
def test_recipes_fit_by_the_compilers_word(words, run_command):
    pytest.importorskip("jax_cuda13_plugin")
    done = run_command("plan", *words)
    assert done.returncode == 0, done.stdout + done.stderr


BF16, FLASH = "--config.model.dtype=bfloat16", "--config.model.attention=cudnn"


@pytest.mark.planned
@pytest.mark.parametrize(
    ("model", "more"),
    [
        *((name, []) for name, preset in PRESETS.items() if isinstance(preset.vision, VisionTransformerConfig)),
        ("ViT-B-16", ["--config.model.patch_dropout=0.3", "--config.model.remat=blocks"]),
        ("ViT-B-16", ["--config.model.scan_layers=True", "--config.model.remat=none"]),
        ("ViT-B-32", ["--topology", "h200:1x8", "--config.mesh.fsdp=2", "--config.train.accumulation=2"]),
    ],
)
def test_flash_attention_trains_every_preset_by_the_compilers_word(model, more, run_command, tmp_path):
    """Both towers, forward and backward: rows of 50, 77, 197, 257 and 577 tokens, and fewer with patch dropout."""
    pytest.importorskip("jax_cuda13_plugin")
    words = ["--config", "csv", *H200, BF16, FLASH, "--config.data.train=x.csv", f"--config.model.name={model}"]
    words += ["--config.train.global_batch_size=64", f"--json={tmp_path / 'plan.json'}"]
    done = run_command("plan", *words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "plan.json").read_text())["fits"]


# GiB of temporaries a device for 32,768 pairs of width 512, in docs/objectives.md and the README.
LOSS_MEMORY = {"h200:1x1": 0.30, "h200:1x8": 0.40, "h200:8x8": 0.40}


@pytest.mark.planned
@pytest.mark.parametrize("topology", LOSS_MEMORY)
def test_the_loss_takes_no_more_memory_than_the_docs_say(topology, run_command, tmp_path):
    pytest.importorskip("jax_cuda13_plugin")
    words = ["--topology", topology, "--batch_sizes", "32768", "--ours_only", "--json", str(tmp_path / "rows.json")]
    done = run_command("benchmark", "loss", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["temporary_gib"] <= LOSS_MEMORY[topology]
