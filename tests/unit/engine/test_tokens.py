import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.virtual_time import Clock

from mmsr.engine import tokens as module
from mmsr.engine.errors import ConfigError
from mmsr.engine.limits import Rate
from mmsr.engine.tokens import TokenFile, entry_of, find, new_token, parse_tokens


def test_a_token_is_found_by_its_entry_and_by_nothing_else() -> None:
    token, other = new_token(), new_token()
    text = entry_of("shop", ["recommend"], token) + entry_of("ops", ["admin", "catalogue"], other)
    parsed = parse_tokens(text, "here")
    found = find(parsed, token)
    assert found is not None
    assert (found.client, set(found.scopes), found.rate) == ("shop", {"recommend"}, None)
    assert find(parsed, token + "x") is None
    assert find(parsed, "") is None
    assert token not in text


def test_every_entry_is_compared_wherever_the_right_one_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = [new_token() for _ in range(5)]
    parsed = parse_tokens("".join(entry_of("a", ["admin"], token) for token in tokens), "here")
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for presented in (*tokens, "nobody's"):
        compared.clear()
        find(parsed, presented)
        assert compared == [token.digest for token in parsed]


def test_a_client_may_have_a_rate_of_its_own() -> None:
    text = entry_of("shop", ["recommend"], new_token()) + "requests_per_s = 5\nburst = 10\n"
    assert parse_tokens(text, "here")[0].rate == Rate(5.0, 10.0)


ENTRY = entry_of("shop", ["recommend"], "t")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[token", "here is no TOML"),
        ("a = 1", "expected .*token"),
        ("token = 1", "expected .*token"),
        (ENTRY.replace('"shop"', '"the shop"'), "here, token 1: client 'the shop'; expected"),
        (ENTRY.replace('"recommend"', '"all"'), r"scopes \['all'\]; expected some of recommend"),
        (ENTRY.replace('["recommend"]', "[]"), r"scopes \[\]; expected some of"),
        (ENTRY.replace("sha256 = ", "sha256 = 3 #"), "sha256 is not 64 lower-case hex digits"),
        (ENTRY + "scope = 1\n", "unknown key 'scope'; known keys: burst, client"),
        (ENTRY + "burst = 1\n", "expected requests_per_s and burst"),
        (ENTRY + "burst = true\nrequests_per_s = 1\n", "both numbers"),
        (ENTRY + "burst = 0\nrequests_per_s = 1\n", "burst 0.0; expected at least 1"),
        (ENTRY + ENTRY + "burst = 1\nrequests_per_s = 1\n", "'shop' has two different rates"),
    ],
)
def test_an_entry_that_is_wrong_is_named_and_no_hash_is_told(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        parse_tokens(text, "here")
    assert module.digest_of("t").hex() not in str(refused.value)


@pytest.mark.parametrize(
    "place",
    [
        'client = "{}"',
        'scopes = ["{}"]',
        "{} = 1",
        'sha256 = "{}"',
        '"{}"',
    ],
)
def test_a_token_that_was_put_into_the_file_is_refused_and_not_told(place: str) -> None:
    token = new_token()
    lines = ENTRY.splitlines()
    key = place.partition(" ")[0]
    text = "\n".join([line for line in lines if not line.startswith(key)] + [place.format(token)])
    for whole in (text, place.format(token) + "\n" + ENTRY):
        with pytest.raises(ConfigError) as refused:
            parse_tokens(whole, "here")
        assert token not in str(refused.value)


def test_an_entry_does_not_show_its_hash() -> None:
    parsed = parse_tokens(ENTRY, "here")
    assert repr(module.digest_of("t")) not in repr(parsed)


def written(path: Path, text: str, age: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(age, age))  # two writes within one tick of the file system's clock


def test_a_file_that_has_changed_is_read_within_a_second(tmp_path: Path) -> None:
    path, clock, token = tmp_path / "tokens.toml", Clock(), new_token()
    written(path, entry_of("shop", ["recommend"], token), 1)
    file = TokenFile(path, clock)
    file.load()
    assert find(file.tokens, token) is not None
    written(path, "", 2)
    clock.now += 1.0
    assert find(file.tokens, token) is None
    assert (file.reloads, file.failures) == (1, 0)


def test_a_file_that_became_unreadable_leaves_the_tokens_in_force_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock, token = tmp_path / "tokens.toml", Clock(), new_token()
    written(path, entry_of("shop", ["recommend"], token), 1)
    file = TokenFile(path, clock)
    file.load()
    for number in (1, 2):
        if number == 1:
            written(path, "[[", 2)
        else:
            path.unlink()
        for _ in range(3):
            clock.now += 1.0
            assert find(file.tokens, token) is not None
        assert file.failures == number
    assert caplog.text.count("the tokens before stay in force") == 2


def test_a_file_that_is_not_there_at_the_start_is_an_error(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "none.toml", Clock())
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        file.load()


def test_the_command_shows_the_token_once_and_prints_the_entry() -> None:
    command = [sys.executable, "-m", "mmsr.engine.tokens", "new", "shop", "--scope", "recommend"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    token = done.stderr.strip().rpartition(" ")[2]
    found = find(parse_tokens(done.stdout, "here"), token)
    assert found is not None
    assert found.client == "shop"
    assert token not in done.stdout


def test_the_command_refuses_a_scope_that_is_none() -> None:
    command = [sys.executable, "-m", "mmsr.engine.tokens", "new", "shop", "--scope", "all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected some of recommend, catalogue, admin" in done.stderr
