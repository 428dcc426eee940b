"""Who is measured against whom, and with which settings. Standard library only."""

from dataclasses import dataclass
from typing import Literal

Engine = Literal["mmsr", "rectools", "replay"]
Form = Literal["sasrec", "ids", "all"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is equal for everybody."""

    width: int = 64
    blocks: int = 2
    heads: int = 2
    max_length: int = 50
    batch_size: int = 128
    dropout: float = 0.2  # of attention weights too
    negatives: int = 256  # of a sampled softmax, uniform
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One training process."""

    name: str
    engine: Engine
    sampled: bool = False  # sampled softmax; else over the whole catalogue
    form: Form = "sasrec"  # of mmsr: positions in the inputs; as a source; all five sources
    attention_dropout: bool = True  # of mmsr
    padded_values: bool = False  # of mmsr: values padded to the width of queries and keys
    bucketed: bool = False  # of RePlay: what it has against padding, off by default


def _ours(name: str, form: Form, sampled: bool = False) -> Contestant:
    return Contestant(name=name, engine="mmsr", form=form, sampled=sampled)


def _attention(form: Form, dropout: bool, padded: bool) -> Contestant:
    name = f"mmsr {form}{'' if dropout else ', no attention dropout'}{', padded' if padded else ''}"
    return Contestant(
        name=name, engine="mmsr", form=form, attention_dropout=dropout, padded_values=padded
    )


SASREC = _ours("mmsr sasrec", "sasrec")
# In each group, everybody is compared with the first.
GROUPS: dict[str, tuple[Contestant, ...]] = {
    "full": (
        SASREC,
        Contestant(name="rectools", engine="rectools"),
        Contestant(name="replay", engine="replay"),
        Contestant(name="replay, bucketed", engine="replay", bucketed=True),
        _ours("mmsr ids", "ids"),
    ),
    "sampled": (
        _ours("mmsr sasrec", "sasrec", sampled=True),
        Contestant(name="rectools", engine="rectools", sampled=True),
        Contestant(name="replay", engine="replay", sampled=True),
        Contestant(name="replay, bucketed", engine="replay", sampled=True, bucketed=True),
        _ours("mmsr ids", "ids", sampled=True),
    ),
    "sources": (
        _ours("mmsr ids", "ids"),
        _ours("mmsr all", "all"),
        SASREC,
    ),
    "sources-sampled": (
        _ours("mmsr ids", "ids", sampled=True),
        _ours("mmsr all", "all", sampled=True),
    ),
    "attention": (
        _attention("ids", dropout=True, padded=False),
        _attention("ids", dropout=False, padded=False),
        _attention("ids", dropout=True, padded=True),
        _attention("ids", dropout=False, padded=True),
    ),
    "attention-all": (
        _attention("all", dropout=True, padded=False),
        _attention("all", dropout=False, padded=False),
        _attention("all", dropout=True, padded=True),
        _attention("all", dropout=False, padded=True),
    ),
    "attention-sasrec": (
        _attention("sasrec", dropout=True, padded=False),
        _attention("sasrec", dropout=False, padded=False),
    ),
}
