"""What settings must satisfy before anything is read or written."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.settings.schema import flatten, is_open, schema


def check(config: ConfigDict) -> None:
    """Raises UserError for settings that are absent, unknown, out of range, or not what the chosen parts can have."""
    check_values(config)
    for kind in schema().chosen(config):
        kind.from_config(config[kind.section] if kind.section else config)


def check_values(config: ConfigDict) -> None:
    """The same but for what parts check themselves: a run can be read without the code of its user's own parts."""
    values, known = closed(config.to_dict()), schema().settings(config)
    given = {name for name, _ in flatten(config.to_dict())} | values.keys()
    closed_names = {name for name, setting in known.items() if not isinstance(setting.default, dict)}
    if missing := sorted(closed_names - given):
        raise UserError(
            f"--config: the recipe lacks config.{missing[0]}. Begin it with the base's settings: config = base()."
        )
    if unknown := unknown_names(config):
        raise UserError(f"--config: the recipe has config.{unknown[0]}, which no part of the system reads.")
    for name in closed_names:
        known[name].check(f"config.{name}", values[name])


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises UserError where something else stands in the place of a section, or of a setting that holds one."""
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
    """Settings by dotted name, without what is inside those that hold dictionaries."""
    return {name: value for name, value in flatten(config) if not is_open(name)}


def unknown_names(config: Mapping[str, Any]) -> list[str]:
    """Dotted names that no part declares; where a user's own part is not loaded, its section may hold any."""
    known, loose = schema().settings(config), tuple(_sections_of_absent_parts(config))
    names = (name for name, _ in flatten(config.to_dict() if isinstance(config, ConfigDict) else dict(config)))
    return sorted(name for name in names if name not in known and not is_open(name) and not name.startswith(loose))


def _sections_of_absent_parts(config: Mapping[str, Any]) -> list[str]:
    found = []
    for registry in schema().registries:
        section, _, key = registry.setting.partition(".")
        name = config.get(section, {}).get(key) if isinstance(config.get(section, {}), Mapping | ConfigDict) else None
        if isinstance(name, str) and name not in registry:
            found.append(f"{section}.")
    return found
