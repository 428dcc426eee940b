"""Live rows of a bundle that chooses candidates by 8-bit codes: as if they had been exported."""

# C rows of the tables, D output width, N items

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop, Sizes, Twin, make_twin, manifest_of, seal, write_files
from support.tiny_live import Floats, publish_live

from mmsr.bundle.manifest import Manifest
from mmsr.engine.catalogue.encoders import key_of
from mmsr.engine.catalogue.live_rows import Change, LiveRows
from mmsr.engine.catalogue.records import Content, Record
from mmsr.engine.model import RowRequest, SequenceModel, open_model
from mmsr.engine.opened import CODE_FILES, ITEM_OUTPUTS
from mmsr.engine.quantise import CODES, SCALES, quantise_rows
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.export.int8_scoring import MARGIN, OVERSAMPLE, write_int8_scoring
from mmsr.export.onnx_file import describe

SIZES = Sizes(items=900, spare=80, width=32, probes=4)
NEW = 60  # items that are written, beside
CHANGED = 60  # trained ones that are written anew
K = 20
Ranked = list[tuple[str, float]]


def in_8_bits(folder: Path, manifest: Manifest) -> Manifest:
    """Let the sequence graph of a bundle that is being made choose by codes, and write these."""
    sequence, whole = folder / "sequence.onnx", folder.with_suffix(".onnx")
    sequence.rename(whole)
    write_int8_scoring(whole, sequence)
    for name, table in codes_of(np.load(folder / ITEM_OUTPUTS)).items():
        np.save(folder / CODE_FILES[name], table)
    provenance = manifest.provenance | {"precision": {"sequence": "int8"}}
    graphs = manifest.graphs | {"sequence": describe(sequence)}
    return replace(manifest, graphs=graphs, provenance=provenance)


def codes_of(outputs_nD: Floats) -> dict[str, AnyArray]:
    return dict(zip((CODES, SCALES), quantise_rows(outputs_nD), strict=True))


class Bound:
    """A runner that remembers what it reads."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.name, self.spec = runner, runner.name, runner.spec
        self.tables: dict[str, AnyArray] = {}

    def bind(self, name: str, array: AnyArray) -> None:
        self.tables[name] = array
        self._runner.bind(name, array)

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        self._runner.write_rows(name, rows, values, axis=axis)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        return self._runner.run(batch)

    def close(self) -> None:
        self._runner.close()


def opened(folder: Path) -> tuple[SequenceModel, Bound]:
    plain = open_model(folder, threads=1)
    runner = Bound(plain.runner)
    model = SequenceModel(plain.bundle, runner)
    model.bind()
    return model, runner


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop") / "repository"
    return publish_live(root, SIZES, complete=in_8_bits)


class Live:
    """A model whose catalogue has changed in every way."""

    def __init__(self, shop: Shop) -> None:
        self.model, self.runner = opened(shop.folder)
        self.rows = LiveRows(self.model)
        self.rows.reader.projector.open()
        random = np.random.default_rng(5)
        written = [f"item-{n}" for n in [*range(CHANGED), *range(900, 900 + NEW)]]
        for strength in (30.0, 3.0):  # twice: the first rows are free again, and taken again
            for item_id in random.permutation(written).tolist():
                self._write(item_id, strength * random.normal(size=3))
        for item_id in written[::7]:
            self._apply(Change(Record(item_id, 1, available=False), None))
        self.hidden = set(written[::7])
        self._apply(Change(Record("item-500", 1, deleted=True), None))

    def _write(self, item_id: str, image_F: AnyArray) -> None:
        feature_F = image_F.astype(np.float32)
        content = Content(image=key_of(feature_F.tobytes()))
        key = self.rows.reader.encoders["image"].feature_key(content.image)
        self._apply(Change(Record(item_id, 1, content), {key: feature_F}))

    def _apply(self, change: Change) -> None:
        plan = self.rows.plan([change], 1)
        self.rows.show(plan, self.rows.apply(plan))

    def row(self, item_id: str) -> int:
        [number] = self.rows.index.rows_of([item_id])
        return self.model.placement.row(number)

    def best(self, history: Sequence[str], only_available: bool) -> Ranked:
        index = self.rows.index
        request = RowRequest(index.rows_of(history), [], K, only_available=only_available)
        [answer] = self.model.recommend([request])
        return list(zip(index.ids_of(answer.rows), answer.scores, strict=True))

    def close(self) -> None:
        self.rows.reader.projector.close()
        self.model.close()


@pytest.fixture(scope="module")
def live(shop: Shop) -> Iterator[Live]:
    found = Live(shop)
    yield found
    found.close()


def twin_of(live: Live, shop: Shop) -> Twin:
    """Return what an export of the catalogue as it is now holds."""
    ids = [f"item-{n}" for n in range(900 + NEW) if n != 500]
    twin = make_twin(replace(SIZES, items=len(ids)))
    rows = [live.row(item_id) for item_id in ids]
    bundle = live.model.bundle
    twin.outputs_CD[1 : len(ids) + 1] = bundle.item_outputs_CD[rows]
    twin.inputs_CW[1 : len(ids) + 1] = bundle.item_inputs_CW[rows]
    available = dict(zip(shop.twin.ids, shop.twin.available_N.tolist(), strict=True))
    available |= {f"item-{n}": True for n in [*range(CHANGED), *range(900, 900 + NEW)]}
    available |= dict.fromkeys(live.hidden, False)
    return replace(
        twin,
        ids=ids,
        available_N=np.array([available[i] for i in ids]),
        popularity_N=twin.popularity_N[: len(ids)],
        categories=[[] for _ in ids],
    )


@pytest.fixture(scope="module")
def exported(live: Live, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> SequenceModel:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    twin = twin_of(live, shop)
    sizes = replace(SIZES, items=len(twin.ids))
    write_files(folder, twin, sizes)
    seal(folder, in_8_bits(folder, manifest_of(sizes)))
    return opened(folder)[0]


def test_every_items_codes_are_those_of_its_vector(live: Live) -> None:
    model, tables = live.model, live.runner.tables
    places = np.arange(model.scored.present)
    rows = model.scored.rows(places)
    assert len(places) == 899 + NEW
    wanted = codes_of(model.bundle.item_outputs_CD[rows])
    assert (tables[CODES][:, places] == wanted[CODES]).all()
    assert (tables[SCALES][places] == wanted[SCALES]).all()


@pytest.mark.parametrize("only_available", [True, False])
def test_answers_are_those_of_the_exported_bundle(
    live: Live, exported: SequenceModel, only_available: bool
) -> None:
    ids = exported.bundle.catalogue.item_ids
    assert len(ids) / 8 > OVERSAMPLE * K + MARGIN  # so the codes choose
    random = np.random.default_rng(9)
    came: set[str] = set()
    for length in (1, 2, 5, 12) * 10:
        history = [ids[n] for n in random.integers(0, len(ids), length)]
        request = RowRequest([ids.index(item_id) + 1 for item_id in history], [], K)
        [wanted] = exported.recommend([request._replace(only_available=only_available)])
        found = live.best(history, only_available)
        assert [item_id for item_id, _ in found] == [ids[row - 1] for row in wanted.rows]
        assert [score for _, score in found] == pytest.approx(wanted.scores, rel=1e-5, abs=1e-5)
        came |= {item_id for item_id, _ in found}
    assert len(came & {f"item-{n}" for n in range(900, 900 + NEW)}) > NEW / 4
    assert bool(came & live.hidden) is not only_available
