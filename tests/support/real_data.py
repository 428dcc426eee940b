"""Where the real data lie, and how much of them a run uses."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RealData:
    """The folders, and the size of the run; None means all, or as the recipe says."""

    root: Path
    posters: int | None
    epochs: int | None

    @property
    def ml1m(self) -> Path:
        return self.root / "ml1m"

    @property
    def beauty(self) -> Path:
        return self.root / "amazon-beauty"

    @property
    def vgg_weights(self) -> Path:
        return self.root / "weights" / "vgg16_features_torchvision.safetensors"
