"""Which users the candidate answers: a share of them, the same ones on every replica and day."""

from dataclasses import dataclass
from hashlib import blake2b

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
