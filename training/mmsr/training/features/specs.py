"""What an encoder was: enough to name its features in a cache and to build it again.

Plain data, written into `features.json` and from there into the bundle. Knows nothing of torch.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from mmsr.bundle.files import sha256_json
from mmsr.bundle.preprocess import ImagePreprocess
from mmsr.training.features.config import FeaturesError

# Part of every cache key: raise it when code here changes what an encoder answers.
ENCODING_VERSION = 1

RGB = tuple[float, float, float]
LOCAL_PATHS = ("weights_path", "path")  # where an encoder lay, not what it is


@dataclass(frozen=True, kw_only=True)
class ImageEncoderSpec:
    """Pixels uint8 [B, size, size, 3] to features float32 [B, dim]."""

    encoder: str  # torchvision's name
    layer: str
    dim: int
    preprocess: ImagePreprocess
    mean: RGB  # of RGB / 255, subtracted inside the encoder
    std: RGB
    weights_source: str  # "hub:<name>", "file:<base name>" or "random:<seed>"
    weights_path: str | None  # where the file lay
    weights_sha256: str  # of the tensors, however they were stored

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` is the way back."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Raise `FeaturesError` unless `raw` has exactly the fields of this class."""
        values = _fields_of(cls, raw)
        try:
            preprocess = ImagePreprocess(**values.pop("preprocess"))
            mean, std = _rgb(values.pop("mean")), _rgb(values.pop("std"))
        except (TypeError, ValueError) as error:
            raise FeaturesError(f"image encoder is described wrongly: {error}") from None
        return cls(**values, preprocess=preprocess, mean=mean, std=std)

    @property
    def cache_key(self) -> str:
        """Return sixteen hex digits: equal keys, equal features for equal pixels."""
        raw = self.to_json()
        del raw["weights_source"], raw["weights_path"]
        return sha256_json([ENCODING_VERSION, "image", raw])[:16]


@dataclass(frozen=True, kw_only=True)
class TextEncoderSpec:
    """Token ids and mask int64 [B, T] to features float32 [B, dim]."""

    encoder: str  # the model's name
    source: str  # "package:<name>", "hub:<name>" or "folder:<base name>"
    path: str | None  # the folder, where it is one that the user named
    dim: int
    pool: str
    max_tokens: int  # T is at most this
    text_fields: tuple[str, ...]  # of an item, joined in this order
    weights_sha256: str
    tokenizer_sha256: str  # of its JSON, with truncation and padding set

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` is the way back."""
        return asdict(self) | {"text_fields": list(self.text_fields)}

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Raise `FeaturesError` unless `raw` has exactly the fields of this class."""
        values = _fields_of(cls, raw)
        return cls(**values | {"text_fields": tuple(values["text_fields"])})

    @property
    def cache_key(self) -> str:
        """Return sixteen hex digits: equal keys, equal features for equal texts.

        The fields joined are left out: the text itself is what a feature is stored under.
        """
        raw = self.to_json()
        del raw["source"], raw["path"], raw["text_fields"]
        return sha256_json([ENCODING_VERSION, "text", raw])[:16]


def _rgb(raw: Any) -> RGB:
    red, green, blue = map(float, raw)
    return red, green, blue


def _fields_of(cls: type[Any], raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise FeaturesError(f"an encoder's description: received {type(raw).__name__}; {_AGAIN}")
    wrong = {field.name for field in fields(cls)} ^ set(raw)
    if wrong:
        names = ", ".join(sorted(map(str, wrong)))
        raise FeaturesError(f"an encoder's description lacks or adds fields ({names}); {_AGAIN}")
    return dict(raw)


_AGAIN = "make the features again with this release: mmsr-train features DATA"


def without_place(spec: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a spec's plain values as they hold on any machine; None as it is."""
    return spec and {k: v for k, v in spec.items() if k not in LOCAL_PATHS}
