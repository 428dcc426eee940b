"""Who may call what: the clients' tokens, as hashes in a TOML file. Knows nothing of gRPC.

    [[token]]
    client = "shop"
    scopes = ["recommend"]         # recommend, catalogue, admin
    sha256 = "<64 hex digits>"     # of the token; the token itself is nowhere
    requests_per_s = 500           # optional, with burst: instead of the server's --rate-limit
    burst = 1000

Two entries may name one client: a new token is added, the client changes over, the old one goes.
`python -m mmsr.engine.tokens new NAME --scope recommend` makes a token and its entry.
"""

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsr.engine.errors import ConfigError
from mmsr.engine.limits import Rate

SCOPES = ("recommend", "catalogue", "admin")
PREFIX = "mmsr_"  # lets scanners for secrets know one
TOKEN_BYTES = 32  # too many to guess, so that one round of SHA-256 is enough
CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
KEYS = frozenset({"client", "scopes", "sha256", "requests_per_s", "burst"})
LOOK_EVERY_S = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One entry of the file."""

    client: str
    scopes: frozenset[str]
    digest: bytes = field(repr=False)  # SHA-256 of the token
    rate: Rate | None = None


def digest_of(token: str) -> bytes:
    """Return what the file keeps of a token."""
    return hashlib.sha256(token.encode()).digest()


def find(tokens: Iterable[Token], presented: str) -> Token | None:
    """Return the entry of a token; the time taken says nothing about any of them."""
    digest = digest_of(presented)
    found = None
    for token in tokens:  # to the end, wherever it is
        if hmac.compare_digest(digest, token.digest):
            found = token
    return found


def new_token() -> str:
    """Return a token that nobody has."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def entry_of(client: str, scopes: Iterable[str], token: str) -> str:
    """Return the lines for the file; `ConfigError` if a name or scope is none."""
    entry = {"client": client, "scopes": list(scopes), "sha256": digest_of(token).hex()}
    _token(entry, "the new token")
    quoted = ", ".join(f'"{scope}"' for scope in entry["scopes"])
    return f'[[token]]\nclient = "{client}"\nscopes = [{quoted}]\nsha256 = "{entry["sha256"]}"\n'


def parse_tokens(text: str, where: str) -> tuple[Token, ...]:
    """Read the file's text; `ConfigError` names the entry that is wrong, never a hash."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no TOML: {error}") from None
    entries = content.pop("token", [])
    if content or not isinstance(entries, list):
        known = _shown(", ".join(sorted(content)) or "token")
        raise ConfigError(f"{where}: {known}; expected [[token]] tables and nothing else")
    tokens = tuple(
        _token(entry, f"{where}, token {number}") for number, entry in enumerate(entries, 1)
    )
    rates: dict[str, Rate | None] = {}
    for token in tokens:
        if rates.setdefault(token.client, token.rate) != token.rate:
            raise ConfigError(f"{where}: client {token.client!r} has two different rates")
    return tokens


def _token(entry: Any, where: str) -> Token:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is no table; expected client, scopes and sha256")
    if unknown := sorted(entry.keys() - KEYS):
        raise ConfigError(f"{where}: unknown key {_shown(unknown[0])}; known keys: {_listed(KEYS)}")
    client, scopes, sha256 = (entry.get(key) for key in ("client", "scopes", "sha256"))
    if not (isinstance(client, str) and CLIENT.fullmatch(client)) or PREFIX in client:
        raise ConfigError(
            f"{where}: client {_shown(client)}; expected 1 to 64 letters, digits, '.', '_' or '-'"
        )
    if not (isinstance(scopes, list) and scopes and all(scope in SCOPES for scope in scopes)):
        raise ConfigError(f"{where}: scopes {_shown(scopes)}; expected some of {', '.join(SCOPES)}")
    if not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise ConfigError(
            f"{where}: sha256 is not 64 lower-case hex digits; make one with "
            "python -m mmsr.engine.tokens new NAME"
        )
    return Token(
        client=client,
        scopes=frozenset(scopes),
        digest=bytes.fromhex(sha256),
        rate=_rate(entry, where),
    )


def _rate(entry: dict[str, Any], where: str) -> Rate | None:
    values = [entry.get(key) for key in ("requests_per_s", "burst")]
    if values == [None, None]:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise ConfigError(f"{where}: expected requests_per_s and burst, both numbers")
    try:
        rate = Rate(*(float(value or 0) for value in values))
    except OverflowError:
        raise ConfigError(f"{where}: requests_per_s or burst is no number that can be") from None
    rate.check(where)
    return rate


def _shown(value: object) -> str:
    """Return what stands in the file for a message that may be logged: never a token."""
    shown = repr(value)
    return "a token in the wrong place" if PREFIX in shown else shown


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class TokenFile:
    """The tokens now: the file is looked at once a second, and read when it has changed.

    A file that became unreadable leaves the old tokens in force, and says so in the log and by
    `failures`.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._tokens: tuple[Token, ...] = ()
        self._seen: object = None
        self._look_at = -math.inf
        self.reloads = 0
        self.failures = 0

    def load(self) -> None:
        """Read the file for the first time; `ConfigError` says what is wrong with it."""
        self._seen = self._signature()
        self._tokens = self._read()
        self._look_at = self._clock() + LOOK_EVERY_S

    @property
    def tokens(self) -> tuple[Token, ...]:
        """What the file holds."""
        if self._clock() >= self._look_at:
            self._look()
        return self._tokens

    def look_again(self) -> None:
        """Look at the file when the tokens are next asked for."""
        self._look_at = -math.inf

    def _look(self) -> None:
        self._look_at = self._clock() + LOOK_EVERY_S
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            tokens = self._read()
        except ConfigError as error:
            self.failures += 1
            log.error("%s; the tokens before stay in force", error)
            return
        self.reloads += 1
        self._tokens = tokens
        log.info("read %d tokens anew from %s", len(tokens), self._path)

    def _read(self) -> tuple[Token, ...]:
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"tokens {self._path} cannot be read: {reason}") from None
        return parse_tokens(text, str(self._path))

    def _signature(self) -> object:
        try:
            state = os.stat(self._path)
        except OSError as error:
            return error.errno
        return state.st_mtime_ns, state.st_size, state.st_ino


if __name__ == "__main__":
    from mmsr.engine.tokens_cli import main

    main()
