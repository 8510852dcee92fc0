"""Plain data (JSON, TOML) <-> frozen dataclasses: closed keys, checked types, no code run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, TypeVar

import dacite

from passreid.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound="DataclassInstance")


class Within(NamedTuple):
    """The range of a number, put beside its type; NaN is in none.

    Attributes:
        words: The range, after "must".
        holds: Whether a number is in it.
    """

    words: str
    holds: Callable[[float], bool]


Count = Annotated[int, Within("be at least 1", lambda v: v >= 1)]
Several = Annotated[int, Within("be at least 2", lambda v: v >= 2)]
Whole = Annotated[int, Within("not be negative", lambda v: v >= 0)]
Finite = Annotated[float, Within("be finite", math.isfinite)]
Positive = Annotated[float, Within("be positive and finite", lambda v: 0 < v < math.inf)]
NotNegative = Annotated[float, Within("be finite and not negative", lambda v: 0 <= v < math.inf)]
Probability = Annotated[float, Within("lie between 0 and 1", lambda v: 0 <= v <= 1)]
BelowOne = Annotated[float, Within("be at least 0 and below 1", lambda v: 0 <= v < 1)]
Share = Annotated[float, Within("lie above 0 and at most at 1", lambda v: 0 < v <= 1)]


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a dataclass from plain data.

    Args:
        cls: The dataclass; nested dataclasses, tuples, Literals and unions are checked too.
        values: Keys and values as JSON or TOML gives them.
        where: What the values were read from; named in every message.

    Raises:
        ConfigError: An unknown key (the nearest known one is suggested), a missing key, a value
            of the wrong type, or one the class itself refuses.
    """
    settings = dacite.Config(strict=True, type_hooks={int: _to_int, float: _to_float})
    try:
        return dacite.from_dict(cls, _tuples(values), config=settings)
    except dacite.UnexpectedDataError as error:
        raise ConfigError(f"{where}: {_unknown(cls, sorted(error.keys))}") from None
    except dacite.MissingValueError as error:
        raise ConfigError(f"{where}: '{error.field_path}' is missing.") from None
    except dacite.WrongTypeError as error:
        expected = _spelled(error.field_type)
        raise ConfigError(
            f"{where}: '{error.field_path}' is {error.value!r}, expected {expected}."
        ) from None
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None


def check_ranges(settings: DataclassInstance) -> None:
    """Refuse numbers outside the ranges that their fields' types name; None is in every range.

    Raises:
        ConfigError: Names the first that is out of range.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for within, number in _ranged(hint, value):
            if not within.holds(number):
                raise ConfigError(f"{name} must {within.words}, not {value}")


def _ranged(hint: Any, value: Any) -> Iterator[tuple[Within, Any]]:
    """Walk the numbers of a value that have a range in its type."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        yield from ((note, value) for note in inner[1:] if isinstance(note, Within))
    elif kind is tuple:
        if not isinstance(value, tuple):  # another member of a union
            return
        kinds = inner[:1] * len(value) if inner[-1] is ... else inner
        for each, item in zip(kinds, value, strict=True):
            yield from _ranged(each, item)
    elif value is not None:
        for each in inner:
            yield from _ranged(each, value)


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into what JSON and TOML can hold; None is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing, unreadable or not TOML.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return values


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: The file is missing, unreadable, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object at the top.")
    return values


def _refuse(constant: str) -> NoReturn:
    """Python's reader takes NaN and Infinity, which are no JSON and no number to count with."""
    raise ValueError(f"{constant} is no number")


def suggest(word: str, known: list[str]) -> str:
    """Say what a mistyped word may have meant: ``" Did you mean 'x'?"`` or the whole list."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(known))}."


def _spelled(expected: Any) -> str:
    """Name a type; of a Literal, what it may be; of a tuple, what is in it."""
    kind, inner = typing.get_origin(expected), typing.get_args(expected)
    if kind is typing.Literal:
        return " or ".join(map(repr, inner))
    if kind is tuple:
        return f"a list: {', '.join(map(_spelled, inner))}"
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_spelled(each) for each in inner if each is not type(None))
    return getattr(expected, "__name__", str(expected))


def _tuples(value: Any) -> Any:
    """Make tuples of lists, which are the only sequences of TOML and JSON."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _to_int(value: Any, kind: type = int) -> Any:
    """Refuse true and false, which Python holds for 1 and 0; the type check sees to the rest."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(kind, value)
    return value


def _to_float(value: Any) -> Any:
    """TOML and JSON write 1 for 1.0."""
    return float(value) if isinstance(_to_int(value, float), int) else value


def _unknown(cls: type[Any], keys: list[str]) -> str:
    known = [field.name for field in _fields(cls)]
    return " ".join(f"unknown key '{key}'.{suggest(key, known)}" for key in keys)


def _fields(cls: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    """Walk a dataclass and the dataclasses in it: dacite names an unknown key without its place."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield field
        for inner in (hints[field.name], *typing.get_args(hints[field.name])):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from _fields(inner)
