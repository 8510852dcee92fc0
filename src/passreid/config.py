"""Convert JSON and TOML to frozen dataclasses and back: closed keys, checked types."""

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

from passreid.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class Within(NamedTuple):
    """The range of a number, annotated on its type; NaN is outside every range.

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
Share = Annotated[float, Within("lie above 0 and at most 1", lambda v: 0 < v <= 1)]


class _WrongTypeError(ConfigError):
    """A value is not of its field's type."""

    def __init__(self, path: str, value: object, hint: object) -> None:
        super().__init__(f"'{path}' is {value!r}, expected {_describe(hint)}.")
        self.path = path


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a dataclass from plain data; nested dataclasses, tuples and unions are checked too.

    Raises:
        ConfigError: An unknown key (the nearest known one is suggested), a missing key, a value
            of the wrong type, or one the class itself rejects; the message starts with `where`.
    """
    try:
        return _build(cls, values, "")
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """Build a dataclass; `path` is the dotted prefix of its keys in messages."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields):
        raise ConfigError(
            " ".join(f"unknown key '{path}{key}'.{suggest(key, list(fields))}" for key in unknown)
        )
    for name, field in fields.items():
        required = dataclasses.MISSING is field.default is field.default_factory
        if required and name not in values:
            raise ConfigError(f"'{path}{name}' is missing.")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], v, path + name) for name, v in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Check a value against its type, making tuples of lists, floats of ints, paths of strings."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    try:
        if kind in (typing.Union, types.UnionType):
            return _convert_union(inner, value, path)
        if kind is tuple and isinstance(value, list | tuple):
            kinds = inner[:1] * len(value) if inner[-1] is ... else inner
            if len(kinds) == len(value):
                pairs = zip(kinds, value, strict=True)
                return tuple(_convert(each, item, path) for each, item in pairs)
        if isinstance(value, Mapping):
            if dataclasses.is_dataclass(hint):
                return _build(typing.cast(Any, hint), value, f"{path}.")
            if kind is not None and issubclass(kind, Mapping):
                return {key: _convert(inner[1], item, path) for key, item in value.items()}
    except _WrongTypeError as error:
        if error.path != path:
            raise  # a field of a nested dataclass; of a wrong item, show the whole list
    if kind is typing.Literal and any(value == v and type(value) is type(v) for v in inner):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    is_bool = isinstance(value, bool) and hint is not bool  # bools are ints in Python
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not is_bool):
        return value
    raise _WrongTypeError(path, value, hint)


def _convert_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    for each in members:
        try:
            return _convert(each, value, path)
        except _WrongTypeError as error:
            if error.path != path:
                raise
    raise _WrongTypeError(path, value, typing.Union[members])  # noqa: UP007


def _describe(hint: Any) -> str:
    """Name a type in plain words."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Literal:
        return " or ".join(map(repr, inner))
    if kind is tuple:
        return f"a list: {', '.join('…' if each is ... else _describe(each) for each in inner)}"
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_describe(each) for each in inner if each is not type(None))
    return getattr(hint, "__name__", str(hint))


def check_ranges(settings: DataclassInstance) -> None:
    """Reject numbers outside the ranges annotated on their fields; None passes.

    Raises:
        ConfigError: Names the first that is out of range.
    """
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        for within, number in _ranged(hint, value):
            if not within.holds(number):
                raise ConfigError(f"{name} must {within.words}, not {value}")


def _ranged(hint: Any, value: Any) -> Iterator[tuple[Within, Any]]:
    """Yield the numbers of a value whose type has a range."""
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
    """Convert dataclasses, tuples and paths to JSON and TOML types; None is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise ConfigError when it is missing or invalid."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return values


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise ConfigError when it is missing, invalid, or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object at the top level.")
    return values


def _reject_constant(constant: str) -> NoReturn:
    """Reject NaN and Infinity, which Python's parser accepts but JSON does not have."""
    raise ValueError(f"{constant} is not a JSON number")


def suggest(word: str, known: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for a mistyped word, or the whole list of known ones."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(known))}."
