"""Comparison of a run's stored settings with new ones."""

from typing import Any

from rankclip_jax.settings.schema import flatten, schema

LENGTH = ("train.steps", "train.epochs")  # may change on resume if the learning-rate schedule allows it


def differences(stored: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Returns a line for each setting that differs and that the trained parameters depend on.

    Ignores the length of the run, which `schedule.step_to_lengthen_from` checks.
    """
    old, new = dict(flatten(stored)), dict(flatten(config))
    changeable = {name for name, setting in schema().settings(config).items() if not setting.fixed} | set(LENGTH)
    return [
        f"config.{name}: {old[name]!r} stored, {new[name]!r} now"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] and name not in changeable and not name.startswith("evaluation.tasks.")
    ]
