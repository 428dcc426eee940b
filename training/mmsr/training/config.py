"""The recipe: one TOML file, read once, checked whole. Unknown keys are refused."""

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.training.features.config import FeaturesConfig, features_config

MODALITIES = ("image", "text", "category")
SOURCES = ("id", "position", *MODALITIES)
ARCHITECTURES = ("mmsr", "dif-sr")
FUSIONS = ("sum", "gate", "concat")
SCORES = ("dot", "cosine")
SOFTMAXES = ("full", "sampled")
FEATURE_LOSSES = ("info_nce", "cosine", "mse")
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("auto", "fp32", "bf16")
SPLITS = ("leave-one-out", "temporal")


class ConfigError(MmsrError):
    """A recipe is missing, malformed or contradicts itself."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{key} = {value!r}; expected one of: {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network."""

    architecture: str = "mmsr"  # dif-sr is a baseline to compare with, not to serve
    sources: tuple[str, ...] = SOURCES
    shuffle: tuple[str, ...] = ()  # control: modalities joined to the wrong items
    noise: tuple[str, ...] = ()  # control: modalities whose features are noise
    width: int = 64  # D, of the running state and of the output vectors
    side_width: int = 64  # of the queries and keys of every source but the id
    blocks: int = 2
    heads: int = 2
    feedforward_width: int = 128
    max_length: int = 50  # history items
    fusion: str = "sum"
    position_in_inputs: bool = False  # positions are added to the input vectors too, as in SASRec
    content_in_values: bool = True  # projected content is added to the id in the input vectors
    content_in_outputs: bool = True  # ... and in the output vectors: cold items can be ranked
    whiten: bool = False  # decorrelate image and text features, instead of only scaling them
    score: str = "dot"  # of state and output vector; cosine divides by their lengths
    score_temperature: float = 0.05  # of the cosine score
    dropout: float = 0.2
    attention_dropout: float = 0.2
    modality_dropout: float = 0.1  # chance that an item lacks a modality for one step
    image_dropout: float | None = None  # the same of one modality; None: modality_dropout
    text_dropout: float | None = None
    category_dropout: float | None = None
    id_dropout: float = 0.1  # chance that an item is unknown by id for one step
    unknown_id_scale: float = 1.0  # of that unknown-id vector for new items; less ranks them higher

    def __post_init__(self) -> None:
        unknown = [s for s in self.sources if s not in SOURCES]
        _require(not unknown, f"[model] sources: unknown {unknown}; known: {', '.join(SOURCES)}")
        _require(
            "id" in self.sources or self._content_everywhere(),
            "[model] sources without 'id' need image, text or category, and both content_in_values "
            "and content_in_outputs: nothing else would tell the items apart",
        )
        _require(len(set(self.sources)) == len(self.sources), "[model] sources: one stands twice")
        _require_choice("[model] architecture", self.architecture, ARCHITECTURES)
        if self.architecture == "dif-sr":
            self._check_dif_sr()
        self._check_controls()
        _require_choice("[model] fusion", self.fusion, FUSIONS)
        _require_choice("[model] score", self.score, SCORES)
        _require(
            self.score_temperature > 0,
            f"[model] score_temperature = {self.score_temperature}; expected above 0",
        )
        for name in ("width", "side_width", "blocks", "heads", "feedforward_width", "max_length"):
            value = getattr(self, name)
            _require(value >= 1, f"[model] {name} = {value}; expected at least 1")
        for name in ("width", "side_width"):
            value = getattr(self, name)
            _require(
                value % self.heads == 0,
                f"[model] {name} = {value} is not a multiple of heads = {self.heads}",
            )
        _require(
            self.max_length >= 4, f"[model] max_length = {self.max_length}; expected 4 or more"
        )
        modality_dropouts = ("modality_dropout", *(f"{m}_dropout" for m in MODALITIES))
        for name in ("dropout", "attention_dropout", "id_dropout", *modality_dropouts):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value < 1,
                f"[model] {name} = {value}; expected 0 <= {name} < 1",
            )
        _require(
            0 <= self.unknown_id_scale <= 1,
            f"[model] unknown_id_scale = {self.unknown_id_scale}; expected from 0 (a new item is "
            "its content alone) to 1 (as trained)",
        )

    def _check_controls(self) -> None:
        for name in ("shuffle", "noise"):
            absent = [m for m in getattr(self, name) if m not in self.modalities]
            _require(
                not absent,
                f"[model] {name}: {absent} not among the content sources in use; "
                f"expected some of: {', '.join(self.modalities) or 'none, as there are none'}",
            )
        both = sorted(set(self.shuffle) & set(self.noise))
        _require(not both, f"[model] shuffle and noise: both name {both}; leave one out")

    def _check_dif_sr(self) -> None:
        wanted: dict[str, Any] = {
            **dict.fromkeys(("content_in_values", "content_in_outputs"), False),
            **dict.fromkeys(("position_in_inputs", "whiten"), False),
            **dict.fromkeys(("modality_dropout", "id_dropout"), 0.0),
            "score": "dot",
        }
        own = (f"{m}_dropout" for m in MODALITIES)
        wanted |= {name: 0.0 for name in own if getattr(self, name) is not None}
        wrong = [name for name, value in wanted.items() if getattr(self, name) != value]
        changes = ", ".join(f"{name} = {json.dumps(wanted[name])}" for name in wrong)
        _require(not wrong, f'[model] architecture = "dif-sr" goes with {changes}')
        _require("id" in self.sources, "[model] architecture = \"dif-sr\" needs the source 'id'")

    def _content_everywhere(self) -> bool:
        return bool(self.modalities) and self.content_in_values and self.content_in_outputs

    def missing_chance(self, modality: str) -> float:
        """Return the chance that an item lacks a modality for one step of training."""
        own: float | None = getattr(self, f"{modality}_dropout")
        return self.modality_dropout if own is None else own

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the content sources in use, in their fixed order."""
        return tuple(m for m in MODALITIES if m in self.sources)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The softmax over the catalogue and the auxiliary losses (weight 0 leaves one out)."""

    softmax: str = "full"
    negatives: int = 1024  # of the sampled softmax, drawn each step, shared by all its positions
    negatives_power: float = 0.5  # they are drawn by purchases ** power; 0 is uniform
    negatives_corrected: bool = True  # the log of how often one is expected comes off its score
    image_loss: str = "info_nce"
    text_loss: str = "info_nce"
    image_weight: float = 0.1
    text_weight: float = 0.1
    category_weight: float = 1.0  # of the mean binary cross-entropy over categories
    temperature: float = 0.1  # of the image and text InfoNCE
    sampled_positions: int = 1024  # positions a step that image and text losses look at, at most

    def __post_init__(self) -> None:
        _require_choice("[loss] softmax", self.softmax, SOFTMAXES)
        _require_choice("[loss] image_loss", self.image_loss, FEATURE_LOSSES)
        _require_choice("[loss] text_loss", self.text_loss, FEATURE_LOSSES)
        names = ("negatives_power", "image_weight", "text_weight", "category_weight")
        for name in names:
            value = getattr(self, name)
            _require(value >= 0, f"[loss] {name} = {value}; expected at least 0")
        for name in ("negatives", "sampled_positions"):
            value = getattr(self, name)
            _require(value >= 1, f"[loss] {name} = {value}; expected at least 1")
        _require(self.temperature > 0, f"[loss] temperature = {self.temperature}; expected above 0")

    def weight(self, modality: str) -> float:
        """Return the weight of a modality's loss."""
        return float(getattr(self, f"{modality}_weight"))

    def kind(self, modality: str) -> str:
        """Return which loss a modality has."""
        return "bce" if modality == "category" else str(getattr(self, f"{modality}_loss"))


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast to train."""

    epochs: int = 50
    batch_size: int = 128  # histories a step, of each process
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # decoupled from the gradient (AdamW)
    warmup_steps: int = 0  # the learning rate rises to its value over so many steps
    schedule: str = "constant"  # after that; linear and cosine fall to 0 at the last epoch's end
    average_decay: float = 0.0  # of the running average of the weights that is kept; 0: none
    clip_norm: float = 5.0
    patience: int = 5  # epochs without a better validation NDCG@10 before it stops
    precision: str = "auto"  # of the blocks and the scores; auto: bf16 on GPUs that have it
    compile: bool = False  # the blocks with torch.compile, on GPUs only
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            _require(value >= 1, f"[fit] {name} = {value}; expected at least 1")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            _require(value > 0, f"[fit] {name} = {value}; expected above 0")
        _require_choice("[fit] schedule", self.schedule, SCHEDULES)
        _require_choice("[fit] precision", self.precision, PRECISIONS)
        _require(
            0 <= self.average_decay < 1,
            f"[fit] average_decay = {self.average_decay}; expected 0 <= average_decay < 1",
        )
        _require(
            self.warmup_steps >= 0,
            f"[fit] warmup_steps = {self.warmup_steps}; expected at least 0",
        )
        _require(self.weight_decay >= 0, "[fit] weight_decay must not be negative")
        _require(self.seed >= 0, "[fit] seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """What is held out of training, for validation and for the test."""

    kind: str = "leave-one-out"
    test_share: float = 0.1  # temporal only: of the interactions, the newest
    validation_share: float = 0.1  # temporal only: of the interactions, those before the test's
    cold_share: float = 0.0  # of the items: new to the model, they are only asked for in the test
    cold_seed: int = 0

    def __post_init__(self) -> None:
        _require_choice("[split] kind", self.kind, SPLITS)
        for name in ("test_share", "validation_share"):
            value = getattr(self, name)
            _require(0 < value < 1, f"[split] {name} = {value}; expected above 0 and below 1")
        held_out = self.test_share + self.validation_share
        _require(
            held_out < 1,
            f"[split] test_share + validation_share = {held_out:g}; nothing is left to train on",
        )
        _require(
            0 <= self.cold_share < 1,
            f"[split] cold_share = {self.cold_share}; expected 0 <= cold_share < 1",
        )
        _require(self.cold_seed >= 0, "[split] cold_seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """What the bundle tells the server."""

    exclude_seen: bool = True  # default of the request field; false suits repeat purchases


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a shop's files become prepared data: `prepare table --config`, and `nightly`."""

    k_core: int | None = None  # interactions that every user and item must have
    brand_categories: int | None = None  # a brand of so many items is a category, too
    list_separator: str | None = None  # parts categories given as one text; None: "|", in CSV only

    def __post_init__(self) -> None:
        _require(self.list_separator != "", "[prepare] list_separator is empty; expected e.g. '|'")
        for name in ("k_core", "brand_categories"):
            value = getattr(self, name)
            _require(
                value is None or value >= 1, f"[prepare] {name} = {value}; expected at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe."""

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe; `ConfigError` names the file and the key."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path} not found; recipes that come along: training/configs/") from None
    except (OSError, ValueError, RecursionError) as error:  # also numbers without end
        raise ConfigError(f"{path} is not readable as TOML: {error}") from None
    return parse_recipe(tables, str(path))


def parse_recipe(tables: Mapping[str, Any], where: str) -> Recipe:
    """Check the tables of a recipe; `where` begins every message."""
    known = {f.name for f in fields(Recipe)}
    for name, table in tables.items():
        _require(
            name in known and isinstance(table, Mapping),
            f"{where}: unknown table or key {name!r}; known tables: {', '.join(sorted(known))}",
        )
    sections: dict[str, Any] = {
        "prepare": PrepareConfig,
        "model": ModelConfig,
        "loss": LossConfig,
        "fit": FitConfig,
        "split": SplitConfig,
        "serving": ServingConfig,
    }
    parsed = {
        name: _section(kind, tables.get(name, {}), where, name) for name, kind in sections.items()
    }
    return Recipe(features=features_config(tables.get("features", {}), where), **parsed)


def _section(kind: Any, table: Mapping[str, Any], where: str, name: str) -> Any:
    types = {f.name: f.type for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        _require(
            key in types,
            f"{where}: unknown key {key!r} in [{name}]; known keys: {', '.join(types)}",
        )
        values[key] = _coerce(value, types[key], f"{where}: [{name}] {key}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _coerce(value: Any, expected: Any, where: str) -> Any:
    for kind in (int, float, str):
        if expected == kind | None:
            expected = kind if value is not None else type(None)
    if expected is float and type(value) is int:
        with suppress(OverflowError):  # hundreds of digits: refused below
            return float(value)
    if expected == tuple[str, ...] and isinstance(value, list):
        return tuple(_coerce(v, str, where) for v in value)
    matches = type(value) is expected or (expected == tuple[str, ...] and type(value) is tuple)
    name = getattr(expected, "__name__", str(expected))
    _require(matches, f"{where} = {value!r}; expected a value of type {name}")
    return value


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain tables, the inverse of `parse_recipe`."""
    return asdict(recipe)
