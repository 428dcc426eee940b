"""Which users the candidate answers: a share of them, the same ones on every replica and day.

And the settings of its trial, of which that is one part; `trial` has the others.
"""

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
        if not user_key or not self.share:
            return False
        digest = blake2b(user_key.encode(), digest_size=BITS // 8, key=self.salt.encode())
        return int.from_bytes(digest.digest()) < self.share * (1 << BITS)


@dataclass(frozen=True, kw_only=True)
class CanaryConfig:
    """Another bundle on trial: whom it answers, what is compared, and what ends the trial."""

    label: Annotated[
        str | None,
        Key(about="label of that bundle; served like those of `also`", flag="--canary"),
    ] = None
    percent: Annotated[
        float,
        Key(
            about="of the user keys are answered by it, the same ones on every replica; requests "
            "without a key are not split",
            flag="--canary-percent",
        ),
    ] = 5.0
    salt: Annotated[str, Key(about="another one chooses other users; at most 64 bytes")] = ""
    shadow_percent: Annotated[
        float,
        Key(
            about="of the default label's answers to Recommend are computed by the canary too, "
            "after they are sent, and compared",
            flag="--shadow-percent",
        ),
    ] = 0.0
    shadow_in_flight: Annotated[
        int, Key(about="of these at a time; more are dropped, as where other requests wait")
    ] = 16
    # One thread computes for all labels: what the shadow takes of it, users wait for.
    shadow_share: Annotated[
        float, Key(about="of the computing thread's time that they take at most")
    ] = 0.25
    max_error_percent: Annotated[
        float | None,
        Key(about="of its requests that end with a fault of the server; more: rolled back"),
    ] = None
    max_p99_ms: Annotated[
        float | None, Key(about="of its answers to Recommend, from arrival; more: rolled back")
    ] = None
    min_overlap: Annotated[
        float | None,
        Key(about="mean overlap@k of what is compared, 0 to 1; less: rolled back"),
    ] = None
    window_s: Annotated[float, Key(about="what these limits are judged by: the last seconds")] = (
        60.0
    )
    least_requests: Annotated[
        int, Key(about="with fewer in that time nothing is judged; its users' and the shadow's")
    ] = 100

    def __post_init__(self) -> None:
        for name in ("percent", "shadow_percent", "max_error_percent"):
            _within(name, getattr(self, name), 0, 100)
        _within("min_overlap", self.min_overlap, 0, 1)
        _within("shadow_share", self.shadow_share, 0.01, 1)
        for name, least in (
            ("shadow_in_flight", 1),
            ("max_p99_ms", 0),
            ("window_s", 1),
            ("least_requests", 1),
        ):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigError(f"{name} {value}; expected at least {least}")
        if len(self.salt.encode()) > 64:
            raise ConfigError(f"salt of {len(self.salt.encode())} bytes; expected at most 64")
        if self.min_overlap is not None and not self.shadow_percent:
            raise ConfigError("min_overlap needs shadow_percent above 0: else nothing is compared")

    @property
    def split(self) -> Split | None:
        """Return which users it is; None: nobody."""
        if self.label is None:
            return None
        return Split(label=self.label, share=self.percent / 100, salt=self.salt)


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise ConfigError(f"{name} {value}; expected {least:g} to {most:g}")
