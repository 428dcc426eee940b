"""Where a configuration comes from: flags over environment over a TOML file over defaults.

Works for any configuration that `config_keys` can read; an unknown key is an error that lists the
known ones. Knows which source gave each value.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from mmsr.engine.config_keys import (
    ENVIRONMENT_PREFIX,
    Setting,
    sections_of,
    settings_of,
    toml_value,
)
from mmsr.engine.errors import ConfigError

Config = TypeVar("Config")

FILE_VARIABLE = f"{ENVIRONMENT_PREFIX}CONFIG"  # names the file
# What Kubernetes sets in every container beside a service that is called mmsr-serve.
FOREIGN = re.compile(rf"{ENVIRONMENT_PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Given:
    """One value and where it was found."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class Effective(Generic[Config]):
    """A configuration, and where each value of it comes from."""

    config: Config
    origins: Mapping[tuple[str, str], str]  # by section and key


def read_config(
    kind: type[Config],
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[tuple[str, str], object],
) -> Effective[Config]:
    """Read all sources; `ConfigError` names the source and the key that is wrong.

    `flags` are values by section and key; None is a flag that was not given.
    """
    settings = {(setting.section, setting.name): setting for setting in settings_of(kind)}
    if file is None and environment.get(FILE_VARIABLE):
        file = Path(environment[FILE_VARIABLE])
    given: dict[tuple[str, str], Given] = {}
    if file is not None:
        given |= _from_file(file, settings)
    given |= _from_environment(environment, settings)
    for place, value in flags.items():
        if value is not None and value != []:
            flag = settings[place].key.flag
            given[place] = Given(value=settings[place].parse(value, str(flag)), origin=str(flag))
    return _build(kind, settings, given)


def _from_file(
    path: Path, settings: Mapping[tuple[str, str], Setting]
) -> dict[tuple[str, str], Given]:
    found = {}
    for section, table in _tables(path).items():
        names = [name for known, name in settings if known == section]
        if not names or not isinstance(table, Mapping):
            known = _listed(dict.fromkeys(section for section, _ in settings))
            raise ConfigError(f"{path}: unknown section or key {section!r}; sections: {known}")
        for name, value in table.items():
            setting = settings.get((section, name))
            if setting is None:
                raise ConfigError(
                    f"{path}: unknown key {name!r} in [{section}]; known keys: {_listed(names)}"
                )
            parsed = setting.parse(value, f"{path}: [{section}] {name}")
            found[section, name] = Given(value=parsed, origin=str(path))
    return found


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path} not found; expected a configuration in TOML") from None
    except (OSError, ValueError, RecursionError) as error:  # also numbers without end
        raise ConfigError(f"{path} is not readable as TOML: {error}") from None


def _from_environment(
    environment: Mapping[str, str], settings: Mapping[tuple[str, str], Setting]
) -> dict[tuple[str, str], Given]:
    known = {setting.environment: place for place, setting in settings.items()}
    found = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == FILE_VARIABLE:
            continue
        if name in known:
            place = known[name]
            found[place] = Given(value=settings[place].parse(text, name), origin=name)
        elif not FOREIGN.fullmatch(name):
            raise ConfigError(
                f"unknown environment variable {name}; known are: {FILE_VARIABLE}, {_listed(known)}"
            )
    return found


def _build(
    kind: type[Config],
    settings: Mapping[tuple[str, str], Setting],
    given: Mapping[tuple[str, str], Given],
) -> Effective[Config]:
    for place, setting in settings.items():
        if setting.default is MISSING and place not in given:
            raise ConfigError(
                f"no {setting.name}; expected {setting.key.flag}, {setting.environment} or "
                f"{setting.name} in [{setting.section}] of the file"
            )
    sections = {}
    for section, section_kind in get_type_hints(kind).items():
        values = {name: value.value for (of, name), value in given.items() if of == section}
        try:
            sections[section] = section_kind(**values)
        except ConfigError as error:
            raise ConfigError(f"{_blamed(section, str(error), given)}{error}") from None
    origins = {place: given[place].origin if place in given else DEFAULT for place in settings}
    return Effective(config=kind(**sections), origins=origins)


def _blamed(section: str, complaint: str, given: Mapping[tuple[str, str], Given]) -> str:
    """Return who set the key that a complaint begins with, as its beginning."""
    name = complaint.partition(" ")[0]
    origin = given.get((section, name))
    return f"{origin.origin}: [{section}] " if origin is not None else f"[{section}] "


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def printed(effective: Effective[Any]) -> str:
    """Return a configuration as a TOML file that says where each value comes from."""
    kind = type(effective.config)
    lines: list[str] = []
    for section, about in sections_of(kind).items():
        lines += ["", f"[{section}] # {about}"]
        for setting in settings_of(kind):
            if setting.section == section:
                value = getattr(getattr(effective.config, section), setting.name)
                lines.append(_line(setting.name, value, effective.origins[section, setting.name]))
    return "\n".join(lines[1:]) + "\n"


def _line(name: str, value: Any, origin: str) -> str:
    if value is None:
        return f"# {name} is off ({origin})"
    return f"{f'{name} = {toml_value(value)}':<44} # {origin}"
