"""Settings, each declared once: a dataclass field with its default, its meaning and the values that it may have."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self

from .errors import UserError

MANY = 10**9  # more steps, records or files than anybody has


class Allowed(Protocol):
    """The values that a setting may have; ``str`` of it completes "expected ..."."""

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError, which names the flag, for any other value."""
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
WEIGHT = Range(0, 1000)  # a larger one is a slip
COUNT = Range(1, MANY)
COUNT_OR_ZERO = Range(0, MANY)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some words.

    Args:
      words: the words, or a function that lists them when they are needed.
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
        """Raises UserError for another length, or a number outside its range."""
        if not isinstance(value, tuple | list) or len(value) != len(self.ranges):
            raise UserError(f"{flag}: expected {len(self.ranges)} numbers; found {value!r}.")
        for place, (number, allowed) in enumerate(zip(value, self.ranges, strict=True), 1):
            allowed.check(f"{flag}, number {place}", number)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tuple of any length of numbers in a range."""

    allowed: Range

    def __str__(self) -> str:
        return f"a tuple, each of it {self.allowed}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for anything else."""
        for number in _sequence(flag, value, "(1.0,)"):
            self.allowed.check(flag, number)


@dataclasses.dataclass(frozen=True)
class Patterns:
    """A tuple of regular expressions that are searched in parameters' names."""

    def __str__(self) -> str:
        return "a tuple of regular expressions"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for anything else."""
        for pattern in _sequence(flag, value, "('vision/.*',)"):
            _check_pattern(flag, pattern)


@dataclasses.dataclass(frozen=True)
class PatternPairs:
    """A tuple of pairs: a regular expression that is searched in parameters' names, and a number."""

    allowed: Range
    whole: bool = False

    def __str__(self) -> str:
        return f"pairs of a regular expression and {self.allowed}{', whole' if self.whole else ''}"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for anything else."""
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
        """Raises UserError for anything else."""
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
        """Raises UserError for anything else."""
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
        raise UserError(f"{flag}: {pattern!r} is not a regular expression: {error}.") from error


def setting(default: Any, meaning: str, allowed: Allowed | None = None, *, fixed: bool = True) -> Any:
    """A field of a `Settings` class.

    Args:
      default: its value unless a recipe or flag says otherwise; its type is the setting's.
      meaning: one line.
      allowed: which values it may have; None: every one of its type.
      fixed: whether a run keeps it when it resumes, since the trained parameters depend on it.
    """
    metadata = {"setting": Setting(default, meaning, allowed, fixed)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting; see `setting`."""

    default: Any
    meaning: str
    allowed: Allowed | None
    fixed: bool

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError, which names the flag, for a value that the setting may not have."""
        default = self.default
        if isinstance(default, bool | str) and type(value) is not type(default):
            raise UserError(f"{flag}: expected a {type(default).__name__}, as {default!r}; found {value!r}.")
        if self.allowed:
            self.allowed.check(flag, value)
        if isinstance(default, int) and not isinstance(value, int):
            raise UserError(f"{flag}: expected a whole number; found {value!r}.")


class Settings:
    """Base of the dataclasses that declare settings; an instance holds their values.

    A subclass checks in ``__post_init__`` what its values may not be together, and raises UserError.
    """

    section: ClassVar[str] = ""  # dotted name in a recipe, such as "optimizer"

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """The settings by name, in the order of the file."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return {field.name: field.metadata["setting"] for field in fields if "setting" in field.metadata}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Takes the values from a section of a recipe, which may hold more."""
        return cls(**{name: _as_tuple(config[name]) for name in cls.declared()})


def _as_tuple(value: Any) -> Any:
    """Lists, as JSON has them, as tuples, at every depth."""
    return tuple(map(_as_tuple, value)) if isinstance(value, tuple | list) else value
