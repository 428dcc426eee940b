"""Every file of a bundle damaged in every way: refused by its name; the old bundle serves on."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.damage import DAMAGES, Damage, files_of, linked
from support.every_file import publish_every_file
from support.serving import PATIENCE_S, Served, start
from support.tally import SEED, Tally, rounds
from support.tiny_bundle import Shop

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import MANIFEST, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.admin_client import AdminClient
from mmsr.engine.client import RecommenderClient
from mmsr.engine.errors import LoadFailed
from mmsr.engine.proven import open_proven

TIMES = rounds(2, 10)  # that each file is damaged in each way


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_every_file(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def another(shop: Shop) -> Shop:
    """A bundle of the same shape and other weights, in the same repository."""
    return publish_every_file(shop.root, seed=1, label=None)


def instead(folder: Path, other: Path, name: str, choose: random.Random) -> Path:
    """Return what `swap` takes: the same file of the other bundle, or another one of this."""
    theirs, ours = other / name, folder / name
    if choose.random() < 0.5 and theirs.read_bytes() != ours.read_bytes():
        return theirs
    others = [folder / file for file in files_of(folder) if file not in (name, MANIFEST)]
    return choose.choice([path for path in others if path.read_bytes() != ours.read_bytes()])


def damaged(
    shop: Shop, another: Shop, target: Path, name: str, damage: Damage, choose: random.Random
) -> str:
    """Damage a copy of the bundle at `target`; say how."""
    linked(shop.folder, target)
    done = damage(target / name, instead(shop.folder, another.folder, name, choose), choose)
    return f"{name}: {done}"


def names_it(error: BundleError, folder: Path, name: str, done: str) -> bool:
    """Tell whether one line names the file.

    Another bundle's whole manifest says the truth of none of the files: the first one is named.
    """
    wholly_other = name == MANIFEST and done.endswith(MANIFEST)
    return f"{folder / ('' if wholly_other else name)}" in str(error) and "\n" not in str(error)


def test_a_damaged_file_is_refused_by_its_name(
    shop: Shop, another: Shop, tmp_path: Path, tally: Tally
) -> None:
    """A bundle's file cut, turned, overwritten, blanked, grown, removed, emptied or swapped."""
    choose = random.Random(SEED)
    for name in files_of(shop.folder):
        for damage in DAMAGES:
            for _ in range(TIMES):
                target = tmp_path / "bad"
                done = damaged(shop, another, target, name, damage, choose)
                tally.mutations += 1
                try:
                    model, _ = open_proven(target, threads=1, runner="cpu")
                except BundleError as error:
                    if names_it(error, target, name, done):
                        tally.survived("refused by the file's name")
                    else:
                        tally.lose(f"{done}: refused without its name: {error}")
                else:
                    model.close()
                    tally.lose(f"{done}: opened")
                shutil.rmtree(target)
    tally.check(at_least=len(files_of(shop.folder)) * len(DAMAGES) * TIMES)


def test_a_file_that_nobody_promised_is_refused(shop: Shop, tmp_path: Path, tally: Tally) -> None:
    """A file more than the manifest names, anywhere in a bundle."""
    for place in ("more", "tables/more.npy", ".hidden", "new/folder/more"):
        target = linked(shop.folder, tmp_path / place.replace("/", "-"))
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_bytes(b"x")
        tally.mutations += 1
        with pytest.raises(BundleError, match=f"{target / place} is not in the manifest"):
            open_proven(target, threads=1, runner="cpu")
        tally.survived("refused by the file's name")
    tally.check()


@pytest.fixture
def served(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("MMSR_SERVE_RELOAD_NICE", "0")
    monkeypatch.setenv("MMSR_SERVE_RELOAD_SHARE", "1")
    served = start(shop.root, "--admin-port", "0", "--no-watch")
    try:
        yield served
        assert served.stop() == 0, served.log
        assert "Traceback" not in served.log
    finally:
        served.process.kill()
        served.end()


def test_a_server_keeps_the_old_bundle(
    shop: Shop, another: Shop, tmp_path: Path, tally: Tally, served: Served
) -> None:
    """A server told to load a bundle one of whose files is damaged."""
    choose = random.Random(SEED)
    place = another.folder
    good = tmp_path / "good"
    place.rename(good)  # of another repository's; damaged copies lie in its place
    target = (served.target, served.wait_for(r"listening on (\S+), Admin alone")[1])
    names, asked = files_of(good), ["item-1", "item-2"]
    with RecommenderClient(target[0]) as client, AdminClient(target[1]) as admin:
        right = client.recommend(asked, k=10, deadline_ms=1e3 * PATIENCE_S)
        for n in range(rounds(6, 60)):
            name, damage = names[n % len(names)], choose.choice(DAMAGES)
            linked(good, place)
            done = damage(place / name, instead(place, shop.folder, name, choose), choose)
            tally.mutations += 1
            with pytest.raises(LoadFailed) as refusal:
                admin.load(place.name)
            again = client.recommend(asked, k=10, deadline_ms=1e3 * PATIENCE_S)
            if name in str(refusal.value) and again.items == right.items:
                tally.survived("refused by the file's name, the old bundle answers on")
            else:
                tally.lose(f"{name}: {done}: {refusal.value}; then {again.items}")
            shutil.rmtree(place)
        linked(shop.folder, place)  # a whole bundle, and not the one that it is called
        with pytest.raises(LoadFailed, match=f"manifest.json is that of bundle {shop.folder.name}"):
            admin.load(place.name)
        tally.survived("refused by the file's name, the old bundle answers on")
        shutil.rmtree(place)
        good.rename(place)
        model, _ = admin.load(place.name)
        assert model.model_version == place.name == load_manifest(place).bundle_id
    tally.check()


def test_a_server_does_not_begin_with_it(
    shop: Shop, another: Shop, tmp_path: Path, tally: Tally
) -> None:
    """A server started with a bundle one of whose files is damaged."""
    choose = random.Random(SEED)
    names = files_of(shop.folder)
    choose.shuffle(names)
    for n in range(rounds(2, 24)):
        repository = Repository(tmp_path / f"repository-{n}")
        repository.create()
        name, damage = names[n % len(names)], choose.choice(DAMAGES)
        place = repository.versions / shop.folder.name
        linked(shop.folder, place)
        repository.promote(place.name, "stable")
        done = damage(place / name, instead(place, another.folder, name, choose), choose)
        tally.mutations += 1
        served = start(repository.root)
        code = served.end()
        said = served.lines[-1]
        if code == 1 and said.startswith("error: ") and name in said:
            tally.survived("the process ends with 1 and names the file")
        else:
            tally.lose(f"{name}: {done}: code {code}: {served.log}")
    tally.check()
