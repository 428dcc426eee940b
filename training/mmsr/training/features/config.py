"""How features are made: the `[features]` table of a recipe and the flags of the same names.

Knows nothing of torch: reading a recipe must be cheap.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any

from mmsr.bundle.errors import MmsrError

IMAGE_LAYERS = ("gap", "fc7")
TEXT_POOLS = ("mean", "cls", "pooler")
TEXT_FIELDS = ("title", "brand", "categories", "description")

# These change how fast features are made, never what they are; all others shape them.
SPEED_FIELDS = frozenset({"image_batch", "text_batch", "workers"})


class FeaturesError(MmsrError):
    """Features are missing or stale, or cannot be made as asked."""


class NoWeightsError(FeaturesError):
    """Pre-trained weights can be had neither from the hub nor from a file."""

    exit_code = 3  # apart from other errors, so that a script can choose another way on


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Encoders, what they read, and how much at a time."""

    image_encoder: str = "vgg16"  # any classifier of torchvision, by its name there
    image_layer: str = "gap"
    image_weights: str | None = None  # .safetensors or .pth; None: torchvision's hub
    image_size: int = 224  # pixels a side
    random_weights: bool = False  # images only
    random_seed: int = 0
    text_encoder: str | None = None  # hub name or folder; None: the installed MiniLM package
    text_pool: str = "mean"
    max_tokens: int = 128
    text_fields: tuple[str, ...] = TEXT_FIELDS  # in the order in which they are joined
    image_batch: int = 32  # images
    text_batch: int = 64  # texts
    workers: int | None = None  # processes that decode images; None: one a CPU

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name))
        _check_choice("image_layer", self.image_layer, IMAGE_LAYERS)
        _check_choice("text_pool", self.text_pool, TEXT_POOLS)
        for name in ("image_size", "image_batch", "text_batch"):
            _check_least(name, getattr(self, name), 1)
        _check_least("max_tokens", self.max_tokens, 3)  # start, one token, end
        _check_least("random_seed", self.random_seed, 0)
        if self.workers is not None:
            _check_least("workers", self.workers, 1)
        if self.random_weights and self.image_weights is not None:
            raise FeaturesError(
                f"image_weights {self.image_weights!r} and random_weights exclude each other; "
                "give one of the two"
            )
        _check_text_fields(self.text_fields)

    def shaping(self) -> dict[str, Any]:
        """Return the settings that the features depend on, ready for JSON."""
        settings = {k: v for k, v in asdict(self).items() if k not in SPEED_FIELDS}
        return settings | {"text_fields": list(self.text_fields)}


# What a value may be.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("image_encoder", "image_layer", "text_pool"), (str,)),
    **dict.fromkeys(("image_weights", "text_encoder"), (str, NoneType)),
    **dict.fromkeys(("image_size", "random_seed", "max_tokens"), (int,)),
    **dict.fromkeys(("image_batch", "text_batch"), (int,)),
    "workers": (int, NoneType),
    "random_weights": (bool,),
    "text_fields": (tuple,),
}


def features_config(table: Mapping[str, Any], where: str) -> FeaturesConfig:
    """Read a `[features]` table; `where` names it in errors ("toy.toml [features]").

    Raises `FeaturesError` for unknown keys, wrong types and values out of range.
    """
    known = [field.name for field in fields(FeaturesConfig)]
    for key in table:
        if key not in known:
            raise FeaturesError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}")
    values = dict(table)
    if isinstance(values.get("text_fields"), list):
        values["text_fields"] = tuple(values["text_fields"])
    try:
        return FeaturesConfig(**values)
    except FeaturesError as error:
        raise FeaturesError(f"{where}: {error}") from None


def _check_type(name: str, value: object) -> None:
    allowed = _TYPES[name]
    if type(value) in allowed:  # exactly: True is no number here
        return
    expected = " or ".join("none" if t is NoneType else t.__name__ for t in allowed)
    raise FeaturesError(
        f"{name} {value!r}; expected {expected.replace('tuple', 'a list of names')}"
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise FeaturesError(f"{name} {value!r}; expected one of {', '.join(choices)}")


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise FeaturesError(f"{name} {value}; expected at least {least}")


def _check_text_fields(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) != len(names) or not set(names) <= set(TEXT_FIELDS):
        raise FeaturesError(
            f"text_fields {list(names)!r}; expected each at most once of {', '.join(TEXT_FIELDS)}"
        )
