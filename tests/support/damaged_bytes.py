"""Damages the bytes of a file that somebody hands in. Knows nothing of what they mean."""

import random
from collections.abc import Sequence


def damaged(content: bytes, choose: random.Random, pieces: Sequence[bytes] = ()) -> bytes:
    """Cut it, turn bits, repeat or exchange stretches, and put pieces in."""
    changed = bytearray(content)
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(changed) + 1)
        length = choose.randint(0, 30)
        kind = choose.randrange(5)
        if kind == 0:
            del changed[place : place + length]
        elif kind == 1 and place < len(changed):
            changed[place] ^= 1 << choose.randrange(8)
        elif kind == 2:
            changed[place:place] = changed[place : place + length]
        elif kind == 3 and pieces:
            changed[place : place + choose.randint(0, 3)] = choose.choice(pieces)
        elif kind == 4:
            del changed[choose.randrange(len(changed) + 1) :]
        if not changed:
            changed = bytearray(b" ")
    return bytes(changed)
