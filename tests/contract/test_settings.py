"""engine/SETTINGS.md is what the dataclasses say."""

from support.tree import ROOT

from mmsr.engine.config_table import page


def test_the_page_of_settings_lists_every_key_as_it_is() -> None:
    written = (ROOT / "engine" / "SETTINGS.md").read_text()
    assert written == page(), "python -m mmsr.engine.config_table > engine/SETTINGS.md"
