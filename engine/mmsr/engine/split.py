"""Which users the candidate answers: a share of them, the same ones on every replica and day."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

from mmsr.engine.config_keys import Key
from mmsr.engine.errors import ConfigError

BITS = 64


@dataclass(frozen=True, kw_only=True)
class Split:
    """A share of the users for another label than the default one.

    Decided by the user's key alone, so that nobody goes to and fro; who is chosen at 5 % is chosen
    at 20 % too. Another `salt` chooses other users.
    """

    label: str
    share: float  # of all user keys, 0 to 1
    salt: str = ""

    def takes(self, user_key: str) -> bool:
        """Tell whether `label` answers this user; never a request that names no user."""
        if not user_key:
            return False
        digest = blake2b(user_key.encode(), digest_size=BITS // 8, key=self.salt.encode())
        return int.from_bytes(digest.digest()) < self.share * (1 << BITS)


@dataclass(frozen=True, kw_only=True)
class CanaryConfig:
    """A share of the users that another bundle answers, the same users on every replica."""

    label: Annotated[
        str | None,
        Key(about="label that answers them; served like those of `also`", flag="--canary"),
    ] = None
    percent: Annotated[
        float,
        Key(about="of the user keys; requests without one are not split", flag="--canary-percent"),
    ] = 5.0
    salt: Annotated[str, Key(about="another one chooses other users; at most 64 bytes")] = ""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ConfigError(f"percent {self.percent}; expected 0 to 100")
        if len(self.salt.encode()) > 64:
            raise ConfigError(f"salt of {len(self.salt.encode())} bytes; expected at most 64")

    @property
    def split(self) -> Split | None:
        """Return which users it is; None: nobody."""
        if self.label is None:
            return None
        return Split(label=self.label, share=self.percent / 100, salt=self.salt)
