"""Validation of settings, before anything is read or written."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.settings.schema import flatten, is_open, schema


def check(config: ConfigDict) -> None:
    """Raises UserError for settings that are missing, unknown, out of range, or rejected by the chosen parts."""
    check_values(config)
    for kind in schema().chosen(config):
        kind.from_config(config[kind.section] if kind.section else config)


def check_values(config: ConfigDict) -> None:
    """Like `check`, without the parts' own checks, so that a run is readable without its user-defined code."""
    values, declared = closed(config.to_dict()), schema().settings(config)
    given = {name for name, _ in flatten(config.to_dict())} | values.keys()
    closed_names = {name for name, setting in declared.items() if not isinstance(setting.default, dict)}
    if missing := sorted(closed_names - given):
        raise UserError(f"--config: the recipe lacks config.{missing[0]}. Start the recipe with config = base().")
    if unknown := unknown_names(config):
        raise UserError(
            f"--config: unknown setting config.{unknown[0]} in the recipe. Remove it, or choose from docs/settings.md."
        )
    for name in closed_names:
        declared[name].check(f"config.{name}", values[name])


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises UserError if the value of a section or of a dictionary setting is not a section."""
    for name, default in schema().defaults().items():
        _check_section(f"config.{name}", config.get(name, default), default)


def _check_section(flag: str, value: Any, default: Any) -> None:
    if not isinstance(default, ConfigDict):
        return
    if not isinstance(value, Mapping | ConfigDict):
        raise UserError(f"{flag}: expected a section of settings; found {value!r}.")
    for key, inner in default.items():
        _check_section(f"{flag}.{key}", value.get(key, inner), inner)


def closed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by dotted name, without the contents of dictionary settings."""
    return {name: value for name, value in flatten(config) if not is_open(name)}


def unknown_names(config: Mapping[str, Any]) -> list[str]:
    """Returns undeclared dotted names; ignores sections whose user-defined part is not loaded."""
    known = schema().settings(config)
    unchecked = tuple(_unchecked_sections(config))
    names = (name for name, _ in flatten(config.to_dict() if isinstance(config, ConfigDict) else dict(config)))
    return sorted(name for name in names if name not in known and not is_open(name) and not name.startswith(unchecked))


def _unchecked_sections(config: Mapping[str, Any]) -> list[str]:
    sections = []
    for registry in schema().registries:
        section, _, key = registry.setting.partition(".")
        name = config.get(section, {}).get(key) if isinstance(config.get(section, {}), Mapping | ConfigDict) else None
        if isinstance(name, str) and name not in registry:
            sections.append(f"{section}.")
    return sections
