"""All settings there are: the classes that declare them, as ``configs/base.py`` lists them."""

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
    """The settings by dotted name.

    Args:
      declared: classes of settings, each with its section.
      registries: parts that add settings of their own to the section of the setting that chooses among them.
      named: parts that are chosen inside a setting that holds a dictionary or a tuple, with their own settings, if any,
        beside the name.
      entries: what each entry of a dictionary has beside the settings of such a part.
    """

    declared: Sequence[type[Settings]]
    registries: Sequence[Registry]
    named: Sequence[Registry] = ()
    entries: Sequence[type[Settings]] = ()

    def classes(self, config: Mapping[str, Any] | None = None) -> Iterator[type[Settings]]:
        """Every class that declares settings; with ``config``, a user's own parts that it chooses among them."""
        yield from self.declared
        for registry in self.registries:
            yield from registry.values()
            name = None if config is None else _get(config, registry.setting)
            if isinstance(name, str) and name not in iter(registry) and name in registry:
                yield registry[name]

    def settings(self, config: Mapping[str, Any] | None = None) -> dict[str, Setting]:
        """Every setting by dotted name; see `classes`."""
        found: dict[str, Setting] = {}
        for kind in self.classes(config):
            prefix = f"{kind.section}." if kind.section else ""
            found |= {f"{prefix}{name}": setting for name, setting in kind.declared().items()}
        return found

    def entry_settings(self, holder: str, part: str) -> dict[str, Setting]:
        """The settings of an entry of the dictionary that a setting holds, where the entry chooses a part."""
        (registry,) = (registry for registry in self.named if registry.setting == holder)
        kinds = [kind for kind in self.entries if kind.section.startswith(holder)]
        return {name: value for kind in (*kinds, registry[part]) for name, value in kind.declared().items()}

    def selectors(self) -> list[str]:
        """The settings that choose a part with settings of its own, and so go before others on a command line."""
        names = ["model.name", *(registry.setting for registry in (*self.registries, *self.named))]
        known = self.settings()
        return [name for name in names if name not in known or isinstance(known[name].default, str)]

    def defaults(self) -> ConfigDict:
        """The settings with their defaults. Sections that a user's own parts may add to are open until `complete`."""
        config = ConfigDict()
        for name, setting in self.settings().items():
            _set(config, name, setting)
        for registry in self.registries:
            config[registry.setting.partition(".")[0]].unlock()
        return config

    def complete(self, config: ConfigDict) -> ConfigDict:
        """A copy of the settings with the defaults of what the chosen parts read and the settings lack."""
        copy = config.copy_and_resolve_references()
        with copy.unlocked():
            for name, setting in self.settings(copy).items():
                section, _, key = name.rpartition(".")
                if key not in (copy[section] if section else copy):
                    _set(copy, name, setting)
        return copy

    def chosen(self, config: ConfigDict) -> Iterator[type[Settings]]:
        """The classes whose values together describe a run: all that are declared, and of the parts the chosen ones."""
        yield from self.declared
        for registry in self.registries:
            yield registry[_get(config, registry.setting)]


def import_parts(config: ConfigDict) -> None:
    """Imports the user's own code that settings name by dotted path; only for settings that a user has given."""
    for registry in (*schema().registries, *schema().named):
        for name in _chosen(_get(config, registry.setting)):
            registry.import_part(name)


@functools.cache
def schema() -> Schema:
    """The settings that ``configs/base.py`` lists."""
    return Schema(*recipe_files.run("base")["SETTINGS"])


def base() -> ConfigDict:
    """Every setting with its default."""
    return schema().defaults()


def is_open(name: str) -> bool:
    """Whether a dotted name is inside a setting that holds a dictionary, such as ``model.vision.width``."""
    known = schema().settings()
    return any(isinstance(known[outer].default, dict) for outer in _outer(name) if outer in known)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values: ``("train.steps", 500)``."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """The settings as plain values, as they look after a trip through JSON."""
    return json.loads(json.dumps(config.to_dict()))


def _chosen(value: Any) -> list[str]:
    """The names of parts in a setting: one, a tuple of them, or a dictionary of tasks of which each names one."""
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
