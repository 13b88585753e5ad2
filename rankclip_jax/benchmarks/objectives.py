"""Benchmark of a study's arms: the time of a step and of the loss alone, as multiples of the baseline's."""

from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.benchmarks.loss import check_sizes
from rankclip_jax.benchmarks.timing import Timings, columns, format_row, print_conclusion, take_turns
from rankclip_jax.benchmarks.train import LENGTH, loss_of, step_of
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.studies.definition import Study, with_settings
from rankclip_jax.training.experiment import build_experiment, check, resolve


def run(config: ConfigDict, study: Study, sizes: list[str], steps: int) -> list[dict]:
    """Measures every tuned arm at each batch size, prints a line for each, and returns the rows.

    Teachers are not run: their embeddings are given, as if they were stored.

    Args:
      config: the settings of the study's recipe.
      study: the study.
      sizes: pairs per step, as given on the command line; empty: the recipe's.
      steps: least number of steps of each arm per turn.

    Raises:
      UserError: the settings are invalid, or a step does not fit in memory.
    """
    rows = []
    for size in check_sizes(sizes or [str(config.train.global_batch_size)], jax.device_count()):
        timings, losses = _measure(config, study, size, steps)
        for arm in study.tuned:
            row = {"arm": arm, "global_batch_size": size, "devices": jax.device_count(),
                   "device": jax.devices()[0].device_kind}  # fmt: skip
            row |= columns("milliseconds", timings.spread(arm, 1e3))
            row |= columns("time_against_baseline", timings.ratio(arm, to=study.baseline))
            has_loss = arm in losses.seconds
            row |= columns("loss_milliseconds", losses.spread(arm, 1e3) if has_loss else None)
            row |= columns("loss_against_baseline", losses.ratio(arm, to=study.baseline) if has_loss else None)
            rows.append(row | timings.load_columns())
            print(_format(row), flush=True)
        print_conclusion(timings, losses)
    return rows


def _measure(config: ConfigDict, study: Study, size: int, steps: int) -> tuple[Timings, Timings]:
    """Times the steps of all arms in turns, and then their losses, where these need only embeddings."""
    whole, alone = {}, {}
    for arm in study.tuned:
        settings = resolve(with_settings(config, {**study.arms[arm].settings, "train.global_batch_size": size}))
        check(settings, jax.device_count())
        experiment = build_experiment(settings, make_mesh(settings.mesh), LENGTH, max(size, LENGTH // 10))
        whole[arm] = step_of(experiment)[0]
        if experiment.objective.head(experiment.model.preset.embedding_size) is None:
            alone[arm] = loss_of(experiment)
    return take_turns(whole, steps), take_turns(alone, steps)


def _format(row: dict[str, Any]) -> str:
    return (
        f"{row['arm']:<24} {row['global_batch_size']:>6,} pairs: {format_row(row, 'milliseconds')} ms per step, "
        f"{format_row(row, 'time_against_baseline', '.2f')} x the baseline's; loss "
        f"{format_row(row, 'loss_milliseconds')} ms, {format_row(row, 'loss_against_baseline', '.2f')} x"
    )
