"""The schema of all settings: the classes that declare them, as listed in ``configs/base.py``."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.input_pipeline.setting import Optional, Setting, Settings
from rankclip_jax.settings import recipe_files


@dataclasses.dataclass(frozen=True)
class Schema:
    """All classes of settings, and the registries whose parts declare more of them.

    Args:
      declared: classes of settings, each with its section.
      registries: registries whose chosen part adds its settings to the section of the setting that chooses it.
      named: registries whose parts are chosen inside a setting with a dictionary or tuple, together with their own
        settings, if any.
      entries: the settings that every entry of such a dictionary has, whichever part it chooses.
    """

    declared: Sequence[type[Settings]]
    registries: Sequence[Registry]
    named: Sequence[Registry] = ()
    entries: Sequence[type[Settings]] = ()

    def classes(self, config: Mapping[str, Any] | None = None) -> Iterator[type[Settings]]:
        """Yields every class that declares settings; with ``config``, also the user-defined parts it chooses."""
        yield from self.declared
        for registry in self.registries:
            yield from registry.values()
            name = None if config is None else _get(config, registry.setting)
            if isinstance(name, str) and name not in iter(registry) and name in registry:
                yield registry[name]

    def settings(self, config: Mapping[str, Any] | None = None) -> dict[str, Setting]:
        """Returns every setting by dotted name; see `classes`."""
        declared: dict[str, Setting] = {}
        for kind in self.classes(config):
            prefix = f"{kind.section}." if kind.section else ""
            declared |= {f"{prefix}{name}": setting for name, setting in kind.declared().items()}
        return declared

    def entry_settings(self, holder: str, part: str) -> dict[str, Setting]:
        """The settings of an entry of the dictionary that a setting holds, where the entry chooses a part."""
        (registry,) = (registry for registry in self.named if registry.setting == holder)
        kinds = [kind for kind in self.entries if kind.section.startswith(holder)]
        return {name: value for kind in (*kinds, registry[part]) for name, value in kind.declared().items()}

    def selectors(self) -> list[str]:
        """Returns the settings that choose a part with its own settings; overrides of them are applied first."""
        names = ["model.name", *(registry.setting for registry in (*self.registries, *self.named))]
        declared = self.settings()
        return [name for name in names if name not in declared or isinstance(declared[name].default, str)]

    def defaults(self) -> ConfigDict:
        """Returns the default settings; sections that user-defined parts may extend stay unlocked."""
        config = ConfigDict()
        for name, setting in self.settings().items():
            _set(config, name, setting)
        for registry in self.registries:
            config[registry.setting.partition(".")[0]].unlock()
        return config

    def complete(self, config: ConfigDict) -> ConfigDict:
        """Returns a copy of the settings, with defaults for missing settings of the chosen parts."""
        copy = config.copy_and_resolve_references()
        with copy.unlocked():
            for name, setting in self.settings(copy).items():
                section, _, key = name.rpartition(".")
                if key not in (copy[section] if section else copy):
                    _set(copy, name, setting)
        return copy

    def chosen(self, config: ConfigDict) -> Iterator[type[Settings]]:
        """Yields the classes that describe a run: all declared ones, and the chosen part of each registry."""
        yield from self.declared
        for registry in self.registries:
            yield registry[_get(config, registry.setting)]


def import_parts(config: ConfigDict) -> None:
    """Imports user code that the settings name by dotted path; call it only for settings from the user."""
    for registry in (*schema().registries, *schema().named):
        for name in _chosen(_get(config, registry.setting)):
            registry.import_part(name)


@functools.cache
def schema() -> Schema:
    """Returns the schema of the settings listed in ``configs/base.py``."""
    return Schema(*recipe_files.run("base")["SETTINGS"])


def base() -> ConfigDict:
    """Returns every setting with its default."""
    return schema().defaults()


def is_open(name: str) -> bool:
    """Whether a dotted name lies inside a dictionary setting, such as ``model.vision.width``."""
    declared = schema().settings()
    return any(isinstance(declared[outer].default, dict) for outer in _outer(name) if outer in declared)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted names and values, such as ``("train.steps", 500)``."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings as plain JSON values."""
    return json.loads(json.dumps(config.to_dict()))


def _chosen(value: Any) -> list[str]:
    """Returns the part names in a setting: a name, a tuple of names, or a dictionary of tasks."""
    if isinstance(value, Mapping | ConfigDict):
        return [
            entry["task"] for entry in value.values() if isinstance(entry, Mapping | ConfigDict) and "task" in entry
        ]
    return [value] if isinstance(value, str) else list(value or ())


def _outer(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _get(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        if not isinstance(value, Mapping | ConfigDict) or key not in value:
            return None
        value = value[key]
    return value


def _set(config: ConfigDict, name: str, setting: Setting) -> None:
    *sections, key = name.split(".")
    for section in sections:
        if section not in config:
            config[section] = ConfigDict()
        config = config[section]
    if isinstance(setting.default, dict):
        config[key] = ConfigDict(setting.default)
        config[key].unlock()
    elif setting.default is None:
        assert isinstance(setting.allowed, Optional)
        config[key] = placeholder(setting.allowed.of)
    else:
        config[key] = setting.default
