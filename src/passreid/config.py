"""Plain data (JSON, TOML) <-> frozen dataclasses: closed keys, checked types, no code run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import dacite

from passreid.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound="DataclassInstance")


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
    settings = dacite.Config(strict=True, type_hooks={float: _to_float})
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


def require(settings: object, holds: Callable[[float], bool], what: str, *names: str) -> None:
    """Refuse settings of which a number is out of its range; None is in every range, NaN in none.

    Args:
        settings: Of which each of `names` is a number, a tuple of numbers or None.
        holds: Whether a number is in the range.
        what: The range in words, after "must".
        names: Attributes of `settings`.

    Raises:
        ConfigError: Names the first that is out of range.
    """
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(map(holds, numbers)):
            raise ConfigError(f"{name} must {what}, not {value}")


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


def _to_float(value: Any) -> Any:
    """TOML and JSON write 1 for 1.0; anything else is left for the type check to refuse."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


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
