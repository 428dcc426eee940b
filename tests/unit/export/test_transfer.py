"""Push and pull against fsspec's local and memory backends."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.tiny_bundle import Sizes, make_twin, manifest_of, seal, write_files

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.manifest import FileEntry, verify_files
from mmsr.bundle.repository import Repository
from mmsr.export.object_store import ObjectStore, open_store, without_secret
from mmsr.export.transfer import pull, push

SMALL = Sizes(items=20, spare=4, width=4, extra_width=2, max_length=5, probes=6)
COUNT = itertools.count()


def quiet(what: str, count: int) -> None:
    """Tell nobody."""


def add(repository: Repository, seed: int, label: str | None = None) -> str:
    with repository.stage() as folder:
        write_files(folder, make_twin(SMALL, seed), SMALL)
        seal(folder, manifest_of(SMALL))
        return repository.publish(folder, label)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Three bundles: stable names the second and named the first; canary the third."""
    repository = Repository(tmp_path / "here")
    add(repository, 0, "stable")
    add(repository, 1, "stable")
    add(repository, 2, "canary")
    return repository


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield f"file://{tmp_path}/bucket/shop"
    else:
        yield f"memory://bucket-{next(COUNT)}/shop"
        MemoryFileSystem.store.clear()


def check(repository: Repository) -> None:
    """Every bundle is whole and every label names one."""
    for bundle_id in repository.ids():
        verify_files(repository.path(bundle_id), repository.manifest(bundle_id))
    for label in repository.label_names():
        repository.resolve(label)


def test_what_is_pushed_is_pulled_and_can_be_rolled_back(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    first, second, third = repository.ids()
    sent = push(repository, open_store(url), [], quiet)
    assert sent.labels == {"canary": third, "stable": second}
    assert set(sent.bundles) == {first, second, third}
    there = Repository(tmp_path / "there")
    got = pull(there, open_store(url), [], quiet)
    assert (got.labels, set(got.bundles)) == (sent.labels, set(sent.bundles))
    check(there)
    assert there.resolve("stable").name == second
    assert there.rollback("stable") == first
    for bundle_id in (first, second, third):
        assert there.manifest(bundle_id) == repository.manifest(bundle_id)


def test_what_is_there_already_is_not_copied_again(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    sent = push(repository, open_store(url), [], quiet)
    # the graph, and the titles with the rest of the probe set, are the same in all three bundles
    files = sum(len(repository.manifest(i).files) for i in repository.ids())
    assert sent.copied_files + sent.present_files == files
    assert sent.present_files >= 2
    again = push(repository, open_store(url), [], quiet)
    assert (again.copied_files, again.copied_bytes, again.present_files) == (0, 0, files)
    there = Repository(tmp_path / "there")
    pull(there, open_store(url), ["stable"], quiet)
    assert len(there.ids()) == 2
    assert pull(there, open_store(url), ["stable"], quiet).copied_files == 0
    more = pull(there, open_store(url), ["canary"], quiet)
    assert more.present_files >= 1  # the graph was here
    check(there)


def test_only_the_chosen_label_travels(repository: Repository, url: str, tmp_path: Path) -> None:
    *_, third = repository.ids()
    sent = push(repository, open_store(url), ["canary"], quiet)
    assert (sent.bundles, sent.labels) == ((third,), {"canary": third})
    there = Repository(tmp_path / "there")
    with pytest.raises(BundleError, match=r"no label 'stable' at .*; there are: canary"):
        pull(there, open_store(url), ["stable"], quiet)
    pull(there, open_store(url), [], quiet)
    assert there.ids() == [third]


def test_pulling_promotes_a_label_that_was_here_before(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    push(repository, open_store(url), [], quiet)
    there = Repository(tmp_path / "there")
    mine = add(there, 9, "stable")
    pull(there, open_store(url), ["stable"], quiet)
    assert there.resolve("stable").name == repository.resolve("stable").name
    assert there.rollback("stable") == mine


def test_the_reason_of_a_rollback_travels(repository: Repository, url: str, tmp_path: Path) -> None:
    first, *_, bad = repository.ids()
    assert repository.resolve("canary").name == bad
    repository.promote(first, "canary", "it answers too late")
    push(repository, open_store(url), ["canary"], quiet)
    there = Repository(tmp_path / "there")
    pull(there, open_store(url), ["canary"], quiet)
    found = [(move.bundle_id, move.reason) for move in there.history("canary")]
    assert found == [(bad, None), (first, "it answers too late")]


class CutShort(Exception):  # noqa: N818  what happened
    """The connection went."""


def cut_after(store: ObjectStore, uploads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an upload write half of the file and fail, after some that succeed."""
    whole: Callable[..., None] = store._filesystem.put_file
    left = iter(range(uploads))

    def put_file(source: str, target: str) -> None:
        if next(left, None) is None:
            content = Path(source).read_bytes()
            store._filesystem.pipe_file(target, content[: len(content) // 2])
            raise CutShort
        whole(source, target)

    monkeypatch.setattr(store._filesystem, "put_file", put_file)


@pytest.mark.parametrize("uploads", [0, 2, 6])
def test_an_interrupted_push_names_nothing_and_goes_on(
    repository: Repository,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uploads: int,
) -> None:
    store = open_store(url)
    with monkeypatch.context() as patch:
        cut_after(store, uploads, patch)
        with pytest.raises(CutShort):
            push(repository, store, [], quiet)
    assert open_store(url).labels() == []
    with pytest.raises(BundleError, match="nothing was ever pushed"):
        pull(Repository(tmp_path / "there"), open_store(url), [], quiet)
    rest = push(repository, open_store(url), [], quiet)
    assert rest.present_files >= uploads
    there = Repository(tmp_path / "there")
    pull(there, open_store(url), [], quiet)
    check(there)
    assert len(there.ids()) == 3


def objects(store: ObjectStore) -> list[str]:
    found: list[Any] = store._filesystem.find(f"{store._root}/objects")
    return [str(path) for path in found]


def test_what_was_changed_at_the_target_is_found_on_arrival(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    store = open_store(url)
    push(repository, store, ["canary"], quiet)
    victim = max(objects(store), key=lambda path: int(store._filesystem.info(path)["size"]))
    content = bytearray(store._filesystem.cat_file(victim))
    content[-1] ^= 1
    store._filesystem.pipe_file(victim, bytes(content))
    there = Repository(tmp_path / "there")
    with pytest.raises(BundleError, match="not that of its name; remove it there"):
        pull(there, open_store(url), [], quiet)
    assert there.ids() == there.label_names() == []
    assert not list(there.root.glob(".staging-*"))
    store._filesystem.rm(victim)
    with pytest.raises(BundleError, match="is missing; push the bundle again"):
        pull(there, open_store(url), [], quiet)
    push(repository, open_store(url), ["canary"], quiet)
    pull(there, open_store(url), [], quiet)
    check(there)


def test_a_bundle_that_is_damaged_here_is_not_pushed_and_is_healed_by_a_pull(
    repository: Repository, url: str
) -> None:
    push(repository, open_store(url), [], quiet)
    bundle = repository.resolve("canary")
    (bundle / "sequence.onnx").write_bytes(b"cut")
    with pytest.raises(BundleError, match=r"sequence\.onnx: 3 bytes"):
        push(repository, open_store(url), ["canary"], quiet)
    pull(repository, open_store(url), ["canary"], quiet)
    check(repository)


def test_a_label_of_a_stranger_does_not_lead_out_of_the_repository(
    repository: Repository, url: str, tmp_path: Path
) -> None:
    store = open_store(url)
    push(repository, store, ["canary"], quiet)
    for name, content in (
        ("canary", json.dumps({"moves": [{"bundle_id": "../../etc"}]})),
        ("canary", "{"),
        ("canary", json.dumps({"moves": []})),
        ("canary", json.dumps({"moves": [{"bundle_id": "a" * 16, "since": "", "reason": [1]}]})),
    ):
        store._filesystem.pipe_file(f"{store._root}/labels/{name}.json", content.encode())
        with pytest.raises(BundleError, match="label 'canary'"):
            pull(Repository(tmp_path / "there"), open_store(url), [], quiet)


def test_an_object_has_to_arrive_whole(url: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"abc")
    with pytest.raises(MmsrError, match="has 3 bytes after the upload of 4; push again"):
        open_store(url).put_object(source, FileEntry(sha256="a" * 64, bytes=4))


def test_a_backend_that_is_not_there_is_one_message() -> None:
    with pytest.raises(MmsrError, match=r"nosuch://bucket: .*expected s3://"):
        open_store("nosuch://bucket")


def test_no_message_shows_a_password_that_stands_in_a_url(tmp_path: Path) -> None:
    with pytest.raises(MmsrError, match=r"nosuch://…@host/bucket: ") as refused:
        open_store("nosuch://key:hidden@host/bucket")
    assert "hidden" not in str(refused.value)
    plain = str(tmp_path / "a@b")
    assert without_secret(plain) == plain
    assert without_secret("s3://bucket/a@b") == "s3://bucket/a@b"
    assert without_secret("sftp://me:hidden@a@host/x") == "sftp://…@host/x"


@pytest.mark.parametrize("sha256", ["../../../../secret", "A" * 64, "", 3])
def test_a_manifest_of_a_stranger_does_not_lead_out_of_the_storage(
    repository: Repository, url: str, tmp_path: Path, sha256: object
) -> None:
    store = open_store(url)
    push(repository, store, ["canary"], quiet)
    path = f"{store._root}/versions/{store.label('canary')[-1].bundle_id}/manifest.json"
    raw = json.loads(store._filesystem.cat_file(path))
    raw.pop("checksum")
    next(iter(raw["files"].values()))["sha256"] = sha256
    store._filesystem.pipe_file(path, json.dumps(raw).encode())
    with pytest.raises(BundleError, match="SHA-256 of "):
        pull(Repository(tmp_path / "there"), open_store(url), ["canary"], quiet)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a\0b", "a\nb", "./a", "a//b", "", ".", "manifest.json"]
)
def test_a_file_of_a_stranger_does_not_lead_out_of_the_bundle(
    repository: Repository, url: str, tmp_path: Path, name: str
) -> None:
    store = open_store(url)
    push(repository, store, ["canary"], quiet)
    path = f"{store._root}/versions/{store.label('canary')[-1].bundle_id}/manifest.json"
    raw = json.loads(store._filesystem.cat_file(path))
    raw.pop("checksum")
    raw["files"][name] = raw["files"].pop(next(iter(raw["files"])))
    store._filesystem.pipe_file(path, json.dumps(raw).encode())
    with pytest.raises(BundleError, match="file name"):
        pull(Repository(tmp_path / "there"), open_store(url), ["canary"], quiet)
    assert [p.name for p in tmp_path.iterdir() if p.name == "a"] == []


@pytest.mark.parametrize("name", ["../canary", "a/b", "", "Canary", "a\0"])
def test_a_label_that_is_none_is_refused_before_anything_is_read(
    repository: Repository, url: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(BundleError, match="label"):
        push(repository, open_store(url), [name], quiet)
    with pytest.raises(BundleError, match="label"):
        pull(Repository(tmp_path / "there"), open_store(url), [name], quiet)
    assert not (tmp_path / "there").exists()
