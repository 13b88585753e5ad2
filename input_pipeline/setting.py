"""Declaration of settings: a dataclass field with its default, its meaning and its allowed values."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self

from .errors import UserError

MANY = 10**9  # an upper bound for steps, records or files


class Allowed(Protocol):
    """The allowed values of a setting; its ``str`` completes "expected ..."."""

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError, which names the flag, for a value that is not allowed."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """A closed interval of finite numbers; either end may be excluded."""

    low: float
    high: float
    exclude_low: bool = False
    exclude_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.exclude_low else value >= self.low
        return above and (value < self.high if self.exclude_high else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.exclude_low else f"at least {self.low:g}"
        return f"a number, {low} and {'below' if self.exclude_high else 'at most'} {self.high:g}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for anything but a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value not in self:
            raise UserError(f"{flag}: expected {self}; found {value!r}.")


FRACTION = Range(0, 1)
FRACTION_BELOW_1 = Range(0, 1, exclude_high=True)
WEIGHT = Range(0, 1000)  # a larger weight is likely a typo
COUNT = Range(1, MANY)
COUNT_OR_ZERO = Range(0, MANY)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several words.

    Args:
      words: the words, or a function that returns them when needed.
    """

    words: Iterable[str] | Callable[[], Iterable[str]]

    def __contains__(self, value: object) -> bool:
        return value in self._listed

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self._listed))}"

    @property
    def _listed(self) -> Any:
        return self.words() if callable(self.words) else self.words

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other word."""
        if value not in self:
            raise UserError(f"{flag}: unknown value {value!r}; choose from {', '.join(map(repr, self._listed))}.")


class Each:
    """A tuple with a range for each of its numbers."""

    def __init__(self, *ranges: Range) -> None:
        self.ranges = ranges

    def __str__(self) -> str:
        return f"{len(self.ranges)} numbers: {'; '.join(map(str, self.ranges))}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for a wrong length, or a number outside its range."""
        if not isinstance(value, tuple | list) or len(value) != len(self.ranges):
            raise UserError(f"{flag}: expected {len(self.ranges)} numbers; found {value!r}.")
        for position, (number, allowed) in enumerate(zip(value, self.ranges, strict=True), 1):
            allowed.check(f"{flag}, number {position}", number)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tuple of any length, of numbers in a range."""

    allowed: Range

    def __str__(self) -> str:
        return f"a tuple, each element {self.allowed}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        for number in _sequence(flag, value, "(1.0,)"):
            self.allowed.check(flag, number)


@dataclasses.dataclass(frozen=True)
class Patterns:
    """A tuple of regular expressions, searched in parameter names."""

    def __str__(self) -> str:
        return "a tuple of regular expressions"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        for pattern in _sequence(flag, value, "('vision/.*',)"):
            _check_pattern(flag, pattern)


@dataclasses.dataclass(frozen=True)
class PatternPairs:
    """A tuple of pairs: a regular expression, searched in parameter names, and a number."""

    allowed: Range
    whole: bool = False

    def __str__(self) -> str:
        return f"pairs of a regular expression and {self.allowed}{', whole' if self.whole else ''}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        for pair in _sequence(flag, value, "(('vision/.*', 0.1),)"):
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
                raise UserError(f"{flag}: expected pairs of a pattern and a number; found {pair!r}.")
            _check_pattern(flag, pair[0])
            self.allowed.check(f"{flag}, {pair[0]!r}", pair[1])
            if self.whole and not isinstance(pair[1], int):
                raise UserError(f"{flag}, {pair[0]!r}: expected a whole number; found {pair[1]!r}.")


@dataclasses.dataclass(frozen=True)
class Words:
    """A tuple of words."""

    def __str__(self) -> str:
        return "a tuple of words"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        for word in _sequence(flag, value, "('a', 'b')"):
            if not isinstance(word, str):
                raise UserError(f"{flag}: expected {self}; found {word!r}.")


@dataclasses.dataclass(frozen=True)
class Optional:
    """A value of a type, or None."""

    of: type

    def __str__(self) -> str:
        return f"a {self.of.__name__} or None"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        if value is not None and type(value) is not self.of:
            raise UserError(f"{flag}: expected {self}; found {value!r}.")


def _sequence(flag: str, value: Any, example: str) -> tuple | list:
    if not isinstance(value, tuple | list):
        raise UserError(f"{flag}: expected a tuple, such as {example}; found {value!r}.")
    return value


def _check_pattern(flag: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"{flag}: {pattern!r} is not a valid regular expression: {error}. Fix the pattern.") from error


def setting(default: Any, meaning: str, allowed: Allowed | None = None, *, fixed: bool = True) -> Any:
    """Declares a setting: a field of a `Settings` class.

    Args:
      default: the default value; its type is the type of the setting.
      meaning: the description, one line.
      allowed: the allowed values; None: every value of its type.
      fixed: whether it must stay the same on resume, since the trained parameters depend on it.
    """
    metadata = {"setting": Setting(default, meaning, allowed, fixed)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of a setting; see `setting`."""

    default: Any
    meaning: str
    allowed: Allowed | None
    fixed: bool

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError, which names the flag, for a value that is not allowed."""
        default = self.default
        if isinstance(default, bool | str) and type(value) is not type(default):
            raise UserError(f"{flag}: expected a {type(default).__name__}, such as {default!r}; found {value!r}.")
        if self.allowed:
            self.allowed.check(flag, value)
        if isinstance(default, int) and not isinstance(value, int):
            raise UserError(f"{flag}: expected a whole number; found {value!r}.")


class Settings:
    """Base class of dataclasses that declare settings; an instance holds their values.

    A subclass checks combinations of values in ``__post_init__``, and raises UserError.
    """

    section: ClassVar[str] = ""  # dotted name in a recipe, such as "optimizer"

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Returns the settings by name, in the order of declaration."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return {field.name: field.metadata["setting"] for field in fields if "setting" in field.metadata}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates an instance from a section of a recipe, which may have more settings."""
        return cls(**{name: _as_tuple(config[name]) for name in cls.declared()})


def _as_tuple(value: Any) -> Any:
    """Converts lists, as from JSON, to tuples at every depth."""
    return tuple(map(_as_tuple, value)) if isinstance(value, tuple | list) else value
