"""Values of a report as names and texts, for the page."""

from typing import Any

from mmsr.engine.bench.machine import Environment


def environment_facts(environment: Environment) -> list[tuple[str, str]]:
    """Return where, when and with what it was measured, as names and texts."""
    return plain(environment.to_json())


def plain(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return every value as text under its dotted name; lists of objects one by one."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        label = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict) and value:
            found += plain(value, f"{label}: ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for place, one in enumerate(value, 1):
                found += plain(one, f"{label} {place}: ")
        else:
            found.append((label, _text(value)))
    return found


def _text(value: Any) -> str:
    if value is None or value in ([], {}):
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return str(value)
