"""What may be configured, read from the dataclasses themselves: their sections, keys and types.

A configuration is a dataclass whose fields are sections, dataclasses again. Each of their fields is
a key: `max_batch: Annotated[int, Key("requests computed together", flag="--max-batch")] = 64`.
Knows neither which keys there are nor where values come from.
"""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from mmsr.engine.errors import ConfigError

ENVIRONMENT_PREFIX = "MMSR_SERVE_"
TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a person must know of a key; stands in the annotation of its field."""

    about: str
    flag: str | None = None  # of the command line; None for what is not changed daily
    default: str | None = None  # in words, where the value depends on the machine


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of one section."""

    section: str
    name: str
    kind: Any  # int, float, str, bool, Path, a Literal of texts or tuple[str, ...]
    optional: bool  # None is "off"
    default: Any  # MISSING: there is none
    key: Key

    @property
    def environment(self) -> str:
        """The environment variable that sets it."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()

    @property
    def is_list(self) -> bool:
        """Whether it holds several texts."""
        return get_origin(self.kind) is tuple

    @property
    def kind_name(self) -> str:
        """The type in words."""
        if get_origin(self.kind) is Literal:
            return ", ".join(get_args(self.kind))
        if self.is_list:
            return "list of texts"
        return "path" if self.kind is Path else TYPE_NAMES[self.kind]

    @property
    def default_text(self) -> str:
        """The default in words."""
        if self.key.default is not None:
            return self.key.default
        if self.default is MISSING:
            return "must be given"
        return "off" if self.default is None else toml_value(self.default)

    def parse(self, value: object, where: str) -> Any:
        """Return the value as its type; `ConfigError` begins with `where`.

        Numbers are read from texts too, as environment variables are, and lists from texts with
        commas.
        """
        parsed = self._parsed(value)
        if parsed is None:
            raise ConfigError(f"{where} = {value!r}; expected {self._expected}")
        return parsed

    @property
    def _expected(self) -> str:
        if get_origin(self.kind) is Literal:
            return f"one of: {self.kind_name}"
        return self.kind_name if self.kind is bool else f"a {self.kind_name}"

    def _parsed(self, value: object) -> Any:
        if self.is_list:
            parts = value.split(",") if isinstance(value, str) else value
            if isinstance(parts, list | tuple) and all(isinstance(p, str) for p in parts):
                return tuple(filter(None, map(str.strip, parts)))
            return None
        if get_origin(self.kind) is Literal:
            return value if value in get_args(self.kind) else None
        if self.kind is bool:
            known = TRUTHS.get(value.lower()) if isinstance(value, str) else value
            return known if isinstance(known, bool) else None
        if self.kind in (int, float):
            return _number(value, self.kind)
        return self.kind(value) if isinstance(value, str | Path) else None


def _number(value: object, kind: type[int] | type[float]) -> int | float | None:
    readable = (int, str) if kind is int else (int, float, str)
    if isinstance(value, bool) or not isinstance(value, readable):
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):  # a whole number of hundreds of digits is no float
        return None


def settings_of(config: type) -> Iterator[Setting]:
    """Give all keys of a configuration, section by section, in the order of the fields."""
    for section, kind in get_type_hints(config).items():
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            annotated = hints[field.name]
            assert get_origin(annotated) is Annotated, f"{section}.{field.name} has no Key"
            of, key = get_args(annotated)
            optional = get_origin(of) is UnionType and NoneType in get_args(of)
            if optional:
                [of] = [part for part in get_args(of) if part is not NoneType]
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            yield Setting(
                section=section,
                name=field.name,
                kind=of,
                optional=optional,
                default=default,
                key=key,
            )


def sections_of(config: type) -> dict[str, str]:
    """Return the sections and what each is about: the first line of its docstring."""
    return {
        section: (kind.__doc__ or "").partition("\n")[0]
        for section, kind in get_type_hints(config).items()
    }


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:_}" if isinstance(value, int) and value > 65_535 else repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    escaped = "".join(_escaped(letter) for letter in str(value))
    return f'"{escaped}"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return f"\\u{ord(letter):04X}" if letter < " " or letter == "\x7f" else letter
