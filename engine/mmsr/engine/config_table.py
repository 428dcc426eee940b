"""The keys of `mmsr-serve` as a page of Markdown: `python -m mmsr.engine.config_table`."""

import sys

from mmsr.engine.config import ServeConfig
from mmsr.engine.config_keys import ENVIRONMENT_PREFIX, Setting, sections_of, settings_of
from mmsr.engine.config_sources import FILE_VARIABLE

INTRODUCTION = f"""# Settings of mmsr-serve

Written by `python -m mmsr.engine.config_table > engine/SETTINGS.md`; a test compares.

A flag goes before the environment, that before the file, that before the default. The file is TOML,
`--config serve.toml` or `{FILE_VARIABLE}`. The variable of `max_batch` in `[batch]` is
`{ENVIRONMENT_PREFIX}BATCH_MAX_BATCH`; commas part lists there. An unknown key is an error.
`mmsr-serve … --print-config` prints all values as such a file, and where each is from.
"""
HEADER = "| key | type | default | flag | what it is |\n|---|---|---|---|---|\n"


def page(config: type = ServeConfig) -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for section, about in sections_of(config).items():
        rows = "".join(_row(s) for s in settings_of(config) if s.section == section)
        parts.append(f"## [{section}]\n\n{about}\n\n{HEADER}{rows}")
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    flag = f"`{setting.key.flag}`" if setting.key.flag else ""
    cells = (f"`{setting.name}`", setting.kind_name, setting.default_text, flag, setting.key.about)
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
