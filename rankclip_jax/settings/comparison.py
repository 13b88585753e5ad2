"""How the settings of a run differ from others."""

from typing import Any

from rankclip_jax.settings.schema import flatten, schema

LENGTH = ("train.steps", "train.epochs")  # changed on resuming where the learning rate allows it


def differences(stored: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """How ``config`` differs from ``stored`` where the trained parameters depend on it, a line each.

    The length of the run is left out: `schedule.step_to_lengthen_from` decides about it.
    """
    old, new = dict(flatten(stored)), dict(flatten(config))
    changeable = {name for name, setting in schema().settings(config).items() if not setting.fixed} | set(LENGTH)
    return [
        f"config.{name}: {old[name]!r} there, {new[name]!r} now"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] and name not in changeable and not name.startswith("evaluation.tasks.")
    ]
