"""Measures a part of the system, side by side with the straightforward way; prints a table and can write JSON.

python -m rankclip_jax.benchmark loss [--batch_sizes 1024,2048] [--objective rankclip] [--topology h200:1x8] [--json F]
python -m rankclip_jax.benchmark input --config F [--pairs 1024] [--rate 10000] [--original LIST.csv] [--json F]
"""

import json
import math
from pathlib import Path

from absl import flags

from input_pipeline.errors import UserError
from rankclip_jax import command_line

_CONFIG = command_line.define_config()
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1024", "2048"], "loss: global batch sizes, by comma")
_EMBEDDING_SIZE = flags.DEFINE_integer("embedding_size", 512, "loss: width of the embeddings")
_OBJECTIVE = flags.DEFINE_string("objective", "rankclip", "loss: a row of rankclip_jax/objectives/__init__.py")
_VARIANT = flags.DEFINE_enum("variant", "exact", ["exact", "released"], "loss: of the ranking terms")
_CHUNK_SIZE = flags.DEFINE_integer("chunk_size", 0, "loss: rows a device handles at once; 0: by a memory budget")
_LIST_SIZE = flags.DEFINE_integer("list_size", 0, "loss: columns that a row is ranked against; 0: all")
_OURS_ONLY = flags.DEFINE_bool("ours_only", False, "loss: leave out the straightforward version, which may not fit")
_TOPOLOGY = flags.DEFINE_string("topology", None, "loss: compile for these devices instead, such as h200:1x8")
_PAIRS = flags.DEFINE_integer("pairs", 1024, "input: pairs to read for each measurement", lower_bound=1)
_RATE = flags.DEFINE_float("rate", 10_000, "input: pairs per second that are to be fed", lower_bound=1)
_ORIGINAL = flags.DEFINE_string("original", None, "input: CSV list that PyTorch reads; the recipe's data unless given")
_JSON = flags.DEFINE_string("json", None, "file to write the rows to as well")


def main(subject: str) -> None:
    rows = {"loss": _loss, "input": _input}[subject]()
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf8")


def _loss() -> list[dict]:
    from rankclip_jax.benchmarks import loss
    from rankclip_jax.objectives import OBJECTIVES
    from rankclip_jax.parallel import topology
    from rankclip_jax.parallel.mesh import make_mesh

    if _OBJECTIVE.value not in OBJECTIVES:
        raise UserError(f"--objective: no {_OBJECTIVE.value!r}; there are {', '.join(OBJECTIVES)}.")
    mesh = topology.mesh_of(_TOPOLOGY.value) if _TOPOLOGY.value else make_mesh()
    rows = []
    for batch_size in _sizes(mesh.size):
        for row in loss.measure(
            _OBJECTIVE.value,
            batch_size=batch_size,
            embedding_size=_EMBEDDING_SIZE.value,
            mesh=mesh,
            variant=_VARIANT.value,  # type: ignore[arg-type]
            chunk_size=_CHUNK_SIZE.value,
            list_size=_LIST_SIZE.value,
            ours_only=_OURS_ONLY.value,
            topology_name=_TOPOLOGY.value,
        ):
            rows.append(row)
            print(_format(row), flush=True)
    return rows


def _input() -> list[dict]:
    if _CONFIG.value is None:
        raise UserError("--config: not given. Name a recipe, such as --config configs/csv.py.")
    import jax

    import input_pipeline
    from input_pipeline.augmentation import Augmentation
    from rankclip_jax import settings
    from rankclip_jax.benchmarks import input as benchmark
    from rankclip_jax.models import clip

    config = _CONFIG.value
    settings.check_data(config.data)
    preset = clip.build(config.model).preset
    size, batch = preset.vision.image_size, config.train.global_batch_size
    source = input_pipeline.open_source(config.data, "train", image_size=size, seed=config.seed)
    original = source
    if _ORIGINAL.value:
        with config.copy_and_resolve_references().unlocked() as given:
            given.data.update({"source": "csv", "train": _ORIGINAL.value})
        original = input_pipeline.open_source(given.data, "train", image_size=size, seed=config.seed)
    augmentation = Augmentation.from_settings(config.data)
    if _PAIRS.value < batch:
        raise UserError(f"--pairs: expected at least a batch, {batch}; found {_PAIRS.value}. Say --pairs={batch}")
    rows = benchmark.stages(source, preset, augmentation, batch, _PAIRS.value)
    rows += benchmark.beside_pytorch(config, preset, augmentation, source, original, _PAIRS.value)
    for row in rows:
        name = row.get("stage") or f"{row['loader']} as a whole"
        ratio = f"   (ours is {row['ratio']:.2f} x this)" if row.get("ratio", 1) != 1 else ""
        print(f"{name:<24}{row['pairs_per_second_per_core']:12,.0f} pairs/s per core{ratio}")
        if row.get("loader") == "rankclip_jax":
            cores = math.ceil(_RATE.value / row["pairs_per_second_per_core"])
            devices = jax.local_device_count()
            print(f"{_RATE.value:,.0f} pairs/s need {cores} such cores, {cores / devices:.1f} for each device here.")
    return rows


def _sizes(devices: int) -> list[int]:
    sizes = [int(size) if size.isdigit() else 0 for size in _BATCH_SIZES.value]
    for size in sizes:
        if size < 1 or size % devices:
            raise UserError(f"--batch_sizes: expected multiples of {devices}, the devices; found {_BATCH_SIZES.value}.")
    return sizes


def _format(row: dict) -> str:
    text = f"{row['objective']} {row['version']:<15}  B {row['batch_size']:>7,}  D {row['embedding_size']}"
    text += f"  {row['devices']} device(s)  {row['temporary_gib']:8.3f} GiB temporary"
    if "milliseconds" in row:
        text += f"  {row['milliseconds']:10.1f} ms  ({row['time_against_ours']:.2f} x ours)"
    for kind, traffic in row.get("collectives", {}).items():
        text += f"\n    {kind}: {traffic['count']}, {traffic['bytes']:,} bytes"
    return text


if __name__ == "__main__":
    command_line.run(main, subjects=("loss", "input"))
