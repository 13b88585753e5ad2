"""Parts by name: those that come with the system, and a user's own by ``package.module:Name``."""

import importlib
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Generic, TypeVar, cast

from .errors import UserError

Part = TypeVar("Part")


class Registry(MutableMapping[str, type[Part]], Generic[Part]):
    """Classes by name. A dotted path is found once its module is imported; nothing is imported by a lookup.

    Settings may come from a file that somebody else wrote, which must not choose what is imported. A recipe or flag
    may: `import_part` is called with what it names.

    Args:
      setting: the setting that names a part, such as ``objective.name``.
      base: what each part is a subclass of.
      parts: those that come with the system.
    """

    def __init__(self, setting: str, base: type, parts: Mapping[str, type[Part]]) -> None:
        self.setting, self._base, self._parts = setting, base, dict(parts)

    def __getitem__(self, name: str) -> type[Part]:
        """The part.

        Raises:
          UserError: there is none of that name, or its module is not imported.
        """
        if name in self._parts:
            return self._parts[name]
        module_name, colon, attribute = str(name).partition(":")
        if not colon:
            raise UserError(
                f"config.{self.setting}: unknown value {name!r}; choose from {', '.join(map(repr, self._parts))}, or "
                "name your own as package.module:Name."
            )
        if module_name not in sys.modules:
            raise UserError(
                f"config.{self.setting}: {name} is code of your own, which is not loaded. Import {module_name} first, "
                "or name the recipe that uses it: --config RECIPE (a copy is in a run's folder)."
            )
        part: Any = getattr(sys.modules[module_name], attribute, None)
        if not (isinstance(part, type) and issubclass(part, self._base)):
            raise UserError(
                f"config.{self.setting}: {name}: expected a subclass of {self._base.__module__}.{self._base.__name__}; "
                f"found {'nothing of that name' if part is None else repr(part)}."
            )
        return cast(type[Part], part)

    def get(self, name: str, default: Any = None) -> Any:
        """The part, or the default where `__getitem__` finds none."""
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
        """Whether `__getitem__` finds it."""
        return self.get(name) is not None

    def import_part(self, name: str) -> None:
        """Imports the module of a dotted path, which a recipe or a flag has named; names of parts need nothing.

        Raises:
          UserError: it cannot be imported, or holds no such part.
        """
        if name not in self._parts and ":" in name:
            module_name = name.partition(":")[0]
            try:
                importlib.import_module(module_name)
            except Exception as error:  # whatever the user's own code raises
                raise UserError(
                    f"config.{self.setting}: {module_name} cannot be imported ({type(error).__name__}: {error}). It is "
                    "looked for in the current folder and among installed packages."
                ) from error
        self[name]
