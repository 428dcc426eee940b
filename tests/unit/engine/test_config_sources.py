"""Flags over environment over file over defaults, for any dataclass of sections."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from mmsr.engine.config import at_least
from mmsr.engine.config_keys import Key, settings_of, toml_value
from mmsr.engine.config_sources import Effective, printed, read_config
from mmsr.engine.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Door:
    """How one comes in."""

    house: Annotated[Path, Key(about="where", flag="--house")]
    width_m: Annotated[float, Key(about="how wide", flag="--width-m")] = 1.0
    keys: Annotated[tuple[str, ...], Key(about="which fit", flag="--key")] = ()
    bell: Annotated[int | None, Key(about="which rings")] = None
    open: Annotated[bool, Key(about="whether one may", flag="--open/--shut")] = False
    side: Annotated[Literal["left", "right"], Key(about="of the hinges")] = "left"

    def __post_init__(self) -> None:
        at_least(0.5, width_m=self.width_m)


@dataclass(frozen=True, kw_only=True)
class Roof:
    """What keeps the rain out."""

    tiles: Annotated[int, Key(about="how many", default="as many as it takes")] = 70_000


@dataclass(frozen=True, kw_only=True)
class Building:
    """A configuration."""

    door: Door
    roof: Roof = field(default_factory=Roof)


HOUSE = {("door", "house"): Path("h")}


def read(
    tmp_path: Path,
    text: str = "",
    environment: dict[str, str] | None = None,
    flags: dict[tuple[str, str], object] | None = None,
) -> Effective[Building]:
    file = tmp_path / "b.toml"
    file.write_text(text)
    return read_config(Building, file, environment or {}, HOUSE if flags is None else flags)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    text = "[door]\nwidth_m = 2\nbell = 2\nside = 'right'\n"
    environment = {"MMSR_SERVE_DOOR_WIDTH_M": "3", "MMSR_SERVE_DOOR_BELL": "3"}
    found = read(tmp_path, text, environment, {**HOUSE, ("door", "width_m"): 4.0})
    door = found.config.door
    assert (door.width_m, door.bell, door.side, found.config.roof.tiles) == (4.0, 3, "right", 70000)
    origins = [found.origins["door", key] for key in ("width_m", "bell", "side")]
    assert origins == ["--width-m", "MMSR_SERVE_DOOR_BELL", str(tmp_path / "b.toml")]
    assert found.origins["roof", "tiles"] == "default"


def test_flags_that_were_not_given_change_nothing(tmp_path: Path) -> None:
    flags: dict[tuple[str, str], object] = {**HOUSE, ("door", "open"): None, ("door", "keys"): []}
    door = read(tmp_path, "[door]\nopen = true\nkeys = ['a']\n", {}, flags).config.door
    assert (door.open, door.keys) == (True, ("a",))
    assert not read(
        tmp_path, "[door]\nopen = true\n", {}, {**HOUSE, ("door", "open"): False}
    ).config.door.open


def test_the_environment_is_read_as_each_keys_type(tmp_path: Path) -> None:
    environment = {
        "MMSR_SERVE_DOOR_KEYS": "a, b,",
        "MMSR_SERVE_DOOR_OPEN": "TRUE",
        "MMSR_SERVE_DOOR_HOUSE": "x/y",
        "MMSR_SERVE_DOOR_SIDE": "right",
        "MMSR_SERVE_ROOF_TILES": "12",
        "OTHER_DOOR_KEYS": "z",
    }
    found = read(tmp_path, "", environment, {}).config
    assert found.door == Door(keys=("a", "b"), open=True, house=Path("x/y"), side="right")
    assert found.roof.tiles == 12


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[roof]\ntiles = 5\n")
    environment = {"MMSR_SERVE_CONFIG": str(file)}
    assert read_config(Building, None, environment, HOUSE).config.roof.tiles == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[dor]\n", "unknown section or key 'dor'; sections: door, roof"),
        ("tiles = 1\n", "unknown section or key 'tiles'; sections: door, roof"),
        ("door = 1\n", "unknown section or key 'door'"),
        ("[roof]\ntile = 1\n", r"unknown key 'tile' in \[roof\]; known keys: tiles"),
        ("[roof]\ntiles = 1.5\n", r"\[roof\] tiles = 1\.5; expected a whole number"),
        ("[roof]\ntiles = true\n", "tiles = True; expected a whole number"),
        ("[door]\nopen = 1\n", "open = 1; expected true or false"),
        ("[door]\nkeys = ['a', 1]\n", "expected a list of texts"),
        ("[door]\nside = 'top'\n", "side = 'top'; expected one of: left, right"),
        ("[door]\nhouse = 1\n", "house = 1; expected a path"),
        ("[door]\nwidth_m = 0.1\n", r"b\.toml: \[door\] width_m 0\.1; expected at least 0\.5"),
        ("[door\n", "not readable as TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_told(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("MMSR_SERVE_ROOF_TILE", "1", "unknown environment variable MMSR_SERVE_ROOF_TILE; known"),
        ("MMSR_SERVE_ROOF_TILES", "many", "MMSR_SERVE_ROOF_TILES = 'many'; expected a whole"),
        ("MMSR_SERVE_DOOR_OPEN", "yes", "MMSR_SERVE_DOOR_OPEN = 'yes'; expected true or false"),
        ("MMSR_SERVE_DOOR_WIDTH_M", "0", r"MMSR_SERVE_DOOR_WIDTH_M: \[door\] width_m 0\.0; exp"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        read(tmp_path, "", {name: text})


def test_what_kubernetes_says_of_a_service_of_that_name_is_no_setting(tmp_path: Path) -> None:
    environment = {
        "MMSR_SERVE_SERVICE_HOST": "10.0.0.1",
        "MMSR_SERVE_SERVICE_PORT_GRPC": "50051",
        "MMSR_SERVE_PORT": "tcp://10.0.0.1:50051",
        "MMSR_SERVE_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert set(read(tmp_path, "", environment).origins.values()) == {"default", "--house"}


def test_a_key_that_must_be_given_is_asked_for(tmp_path: Path) -> None:
    expected = r"^no house; expected --house, MMSR_SERVE_DOOR_HOUSE or house in \[door\]"
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, "", {}, {})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml not found; expected a configuration"):
        read_config(Building, tmp_path / "none.toml", {}, HOUSE)


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    flags: dict[tuple[str, str], object] = {
        ("door", "house"): Path('a "b"\\c\n'),
        ("door", "keys"): ["x", "y"],
    }
    first = read(tmp_path, "[roof]\ntiles = 12\n", {"MMSR_SERVE_DOOR_OPEN": "1"}, flags)
    text = printed(first)
    assert "# bell is off (default)" in text
    assert [line.partition("# ")[2] for line in text.splitlines() if line.startswith("open")] == [
        "MMSR_SERVE_DOOR_OPEN"
    ]
    assert tomllib.loads(text)["door"]["keys"] == ["x", "y"]
    assert read(tmp_path, text, {}, {}).config == first.config


def test_numbers_are_written_as_they_are_read() -> None:
    for value in (0, 65535, 4_194_304, 0.5, 1e-9, True):
        assert tomllib.loads(f"v = {toml_value(value)}")["v"] == value


def test_a_default_that_depends_on_the_machine_is_told_in_words() -> None:
    told = {setting.name: setting.default_text for setting in settings_of(Building)}
    assert told["tiles"] == "as many as it takes"
    assert (told["house"], told["bell"], told["open"]) == ("must be given", "off", "false")
