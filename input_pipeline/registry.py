"""Registries of parts by name: built-in ones, and user-defined ones as ``package.module:Name``."""

import importlib
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar, cast

from .errors import UserError

Part = TypeVar("Part")


class Registry(MutableMapping[str, type[Part]], Generic[Part]):
    """A registry of classes by name, or by the dotted path of an imported module; a lookup never imports anything.

    Settings may come from an untrusted file, which must not choose what is imported. Recipes and flags may:
    `import_part` imports the parts that they name.

    Args:
      setting: the setting that chooses a part, such as ``objective.name``.
      base: the base class of all parts.
      parts: the built-in parts.
    """

    def __init__(self, setting: str, base: type, parts: Mapping[str, type[Part]]) -> None:
        self.setting, self._base, self._parts = setting, base, dict(parts)

    def __getitem__(self, name: str) -> type[Part]:
        """Returns the part of a name.

        Raises:
          UserError: the name is unknown, or its module is not imported.
        """
        if name in self._parts:
            return self._parts[name]
        module_name, colon, attribute = str(name).partition(":")
        if not colon:
            raise UserError(
                f"config.{self.setting}: unknown value {name!r}; choose from {', '.join(map(repr, self._parts))}, or "
                "use your own class as package.module:Name."
            )
        if module_name not in sys.modules:
            raise UserError(
                f"config.{self.setting}: {name} is user code that is not loaded. Import {module_name} first, or "
                "use the recipe that adds it: --config RECIPE (a copy is in the run's folder)."
            )
        part: Any = getattr(sys.modules[module_name], attribute, None)
        if not (isinstance(part, type) and issubclass(part, self._base)):
            raise UserError(
                f"config.{self.setting}: {name}: expected a subclass of {self._base.__module__}.{self._base.__name__}; "
                f"found {'no such name' if part is None else repr(part)}."
            )
        return cast(type[Part], part)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the part, or the default if `__getitem__` raises UserError."""
        try:
            return self[name]
        except UserError:
            return default

    def __setitem__(self, name: str, part: type[Part]) -> None:
        self._parts[name] = part

    def __delitem__(self, name: str) -> None:
        del self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: Any) -> bool:
        """Whether `__getitem__` finds the name."""
        return self.get(name) is not None

    def import_part(self, name: str) -> None:
        """Imports the module of a dotted path from a recipe or flag; does nothing for other names.

        Raises:
          UserError: the module cannot be imported, or lacks the part.
        """
        if name not in self._parts and ":" in name:
            module_name = name.partition(":")[0]
            try:
                importlib.import_module(module_name)
            except Exception as error:  # user code may raise anything
                raise UserError(
                    f"config.{self.setting}: {module_name} cannot be imported ({type(error).__name__}: {error}). It is "
                    "looked for in the current folder and among installed packages."
                ) from error
        self[name]
