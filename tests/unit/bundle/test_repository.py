"""Bundles are whole or not there; labels move atomically."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import (
    GraphSpec,
    Manifest,
    TableSizes,
    TensorSpec,
    describe_files,
    load_manifest,
    verify_files,
)
from mmsr.bundle.repository import LabelMovedError, Move, Repository


def write_bundle(
    folder: Path, content: bytes = b"graph", metrics: dict[str, float] | None = None
) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sequence.onnx").write_bytes(content)
    (folder / "tables").mkdir(exist_ok=True)
    np.save(folder / "tables" / "ids.npy", np.zeros((2, 3), np.float32))
    history = TensorSpec(name="history", dtype="int64", shape=("B", "L"))
    manifest = Manifest(
        max_length=5,
        exclude_seen=True,
        tables=TableSizes(items=1, capacity=4, input_width=3, output_width=3),
        graphs={"sequence": GraphSpec(file="sequence.onnx", inputs=(history,), outputs=())},
        model={"width": 3},
        features={"image": None},
        files=describe_files(folder),
        metrics={"test.masked.ndcg@10": 0.5} if metrics is None else metrics,
    )
    manifest.save(folder)
    return manifest


def publish(repository: Repository, content: bytes, metrics: dict[str, float] | None = None) -> str:
    with repository.stage() as staged:
        write_bundle(staged, content, metrics)
        return repository.publish(staged)


def test_a_label_that_has_moved_since_the_newcomer_was_judged_is_left_alone(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    first, other = publish(repository, b"first"), publish(repository, b"other")
    with pytest.raises(LabelMovedError, match=f"'stable' names no bundle now, {first} when"):
        repository.promote(other, Move(label="stable", named=first))
    repository.promote(first, Move(label="stable", named=None))
    with pytest.raises(LabelMovedError, match=f"'stable' names {first} now, none when .* again"):
        repository.promote(other, Move(label="stable", named=None))
    repository.promote(other, Move(label="stable", named=first))
    with repository.stage() as staged:
        write_bundle(staged, b"third")
        with pytest.raises(LabelMovedError, match=f"names {other} now, {first} when"):
            repository.publish(staged, Move(label="stable", named=first))
        assert repository.ids() == [first, other]
        third = repository.publish(staged, Move(label="stable", named=other))
    assert [m.bundle_id for m in repository.history("stable")] == [first, other, third]


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path)
    assert load_manifest(tmp_path) == manifest
    verify_files(tmp_path, manifest)


def test_the_id_follows_from_the_content_alone(tmp_path: Path) -> None:
    one, same = write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b")
    other = write_bundle(tmp_path / "c", b"other graph")
    assert one.bundle_id == same.bundle_id
    assert one.bundle_id != other.bundle_id


def test_every_damage_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path)
    for name in manifest.files:
        path = tmp_path / name
        whole = path.read_bytes()
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        for damaged in (whole[:-1], whole + b"x", flipped, b""):
            path.write_bytes(damaged)
            with pytest.raises(BundleError, match=path.name):
                verify_files(tmp_path, manifest)
        path.unlink()
        with pytest.raises(BundleError, match=path.name):
            verify_files(tmp_path, manifest)
        path.write_bytes(whole)
    (tmp_path / "stray.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"stray\.bin"):
        verify_files(tmp_path, manifest)


def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text())
    del raw["checksum"]  # whoever edits it takes that out; older releases wrote none
    text = json.dumps(raw, indent=2)
    path.write_text(text)
    assert load_manifest(tmp_path).max_length == 5
    edits = {
        "half": text[: len(text) // 2],
        "another format": text.replace('"format_version": 2', '"format_version": 7'),
        "another length": text.replace('"width": 3', '"width": 4'),
        "a list": "[]",
        "a shorter history": text.replace('"max_length": 5', '"max_length": 3'),
        "a way out": text.replace('"tables/ids.npy"', '"../tables/ids.npy"'),
        "a field less": text.replace('"max_length": 5,', ""),
    }
    for what, edited in edits.items():
        assert edited != text, what
        path.write_text(edited)
        with pytest.raises(BundleError, match=r"manifest\.json"):
            load_manifest(tmp_path)


def test_what_a_manifest_only_says_of_a_bundle_is_not_damaged_unseen(tmp_path: Path) -> None:
    """Its metrics decide whether the next bundle is published, and no id follows from them."""
    replace(write_bundle(tmp_path), metrics={"test.masked.ndcg@10": 0.7}).save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("0.7", "0.3"))
    with pytest.raises(BundleError, match=r"manifest\.json does not say any more what"):
        load_manifest(tmp_path)


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    assert publish(repository, b"graph") == publish(repository, b"graph")
    assert len(repository.ids()) == 1
    assert not list(tmp_path.glob(".staging-*"))


def test_publishing_again_brings_what_is_newly_said_of_the_bundle(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    bundle_id = publish(repository, b"graph", metrics={})
    assert publish(repository, b"graph", metrics={"test.masked.ndcg@10": 0.7}) == bundle_id
    assert repository.manifest(bundle_id).metrics == {"test.masked.ndcg@10": 0.7}
    publish(repository, b"graph", metrics={})  # from a run that was not evaluated
    assert repository.manifest(bundle_id).metrics == {"test.masked.ndcg@10": 0.7}
    verify_files(repository.path(bundle_id), repository.manifest(bundle_id))


def cut(bundle: Path) -> None:
    (bundle / "sequence.onnx").write_bytes(b"gra")


def lose_a_folder(bundle: Path) -> None:
    shutil.rmtree(bundle / "tables")


def lose_the_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def add_a_stray_file(bundle: Path) -> None:
    (bundle / "stray.bin").write_bytes(b"")


def put_a_folder_in_place_of_a_file(bundle: Path) -> None:
    (bundle / "sequence.onnx").unlink()
    (bundle / "sequence.onnx").mkdir()


@pytest.mark.parametrize(
    "damage",
    [cut, lose_a_folder, lose_the_manifest, add_a_stray_file, put_a_folder_in_place_of_a_file],
)
def test_publishing_again_heals_a_damaged_bundle(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    repository = Repository(tmp_path)
    bundle_id = publish(repository, b"graph")
    damage(repository.path(bundle_id))
    assert publish(repository, b"graph") == bundle_id
    bundle = repository.path(bundle_id)
    verify_files(bundle, load_manifest(bundle))
    assert not list(tmp_path.glob(".staging-*"))


def test_a_reader_of_the_old_files_keeps_them_while_the_bundle_is_healed(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    bundle_id = publish(repository, b"graph")
    path = repository.path(bundle_id) / "sequence.onnx"
    inode = path.parent.stat().st_ino
    path.write_bytes(b"old")
    with path.open("rb") as opened:
        publish(repository, b"graph")
        assert opened.read() == b"old"
    assert path.read_bytes() == b"graph"
    assert path.parent.stat().st_ino == inode  # the label never named nothing


def test_what_a_killed_exporter_left_behind_is_swept_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; "
        "from mmsr.bundle.repository import Repository; "
        "stage = Repository(Path(sys.argv[1])).stage(); print(stage.__enter__(), flush=True); "
        "threading.Event().wait()"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    left = Path(killed.stdout.readline().strip())
    repository = Repository(tmp_path)
    with repository.stage() as mine:
        assert left.is_dir()  # its exporter lives
        killed.kill()
        killed.wait()
        killed.stdout.close()
        with repository.stage() as another:
            assert not left.exists()
            assert mine.is_dir()
            assert another.is_dir()


def test_labels_move_forth_and_back(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    first, second = publish(repository, b"one"), publish(repository, b"two")
    repository.promote(first, "stable")
    repository.promote(second, "stable")
    repository.promote(second, "stable")  # no move
    assert repository.resolve("stable").name == second
    assert repository.rollback("stable") == first
    assert repository.resolve("stable").name == first
    with pytest.raises(BundleError, match="nothing to roll back to"):
        repository.rollback("stable")


def test_a_move_keeps_its_reason_and_one_without_is_written_as_ever(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    first, second = publish(repository, b"one"), publish(repository, b"two")
    repository.promote(second, "canary")
    repository.promote(first, Move(label="canary", named=second), reason="it answers too late")
    repository.promote(first, Move(label="canary", named=second), reason="it is there already")
    with pytest.raises(LabelMovedError, match=f"'canary' names {first} now, {second} when"):
        repository.promote(second, Move(label="canary", named=second), reason="once more")
    before, now = repository.history("canary")
    assert (before.bundle_id, before.reason) == (second, None)
    assert (now.bundle_id, now.reason) == (first, "it answers too late")
    written = json.loads((tmp_path / "labels" / "canary.json").read_text())["moves"]
    assert [sorted(move) for move in written] == [
        ["bundle_id", "since"],
        ["bundle_id", "reason", "since"],
    ]


def test_unknown_bundles_and_labels_are_named_with_what_there_is(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "none")
    with pytest.raises(BundleError, match="not a repository"):
        repository.ids()
    repository = Repository(tmp_path)
    bundle_id = publish(repository, b"one")
    with pytest.raises(BundleError, match=bundle_id):
        repository.path("0123456789abcdef")
    for name in ("../versions", "Stable", "", "a" * 64):
        with pytest.raises(BundleError, match="not allowed"):
            repository.promote(bundle_id, name)
    with pytest.raises(BundleError, match="no label 'canary'"):
        repository.resolve("canary")


def test_a_failed_stage_leaves_nothing_behind(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    with pytest.raises(ZeroDivisionError), repository.stage() as staged:  # noqa: PT012
        (staged / "half.bin").write_bytes(b"half")
        raise ZeroDivisionError
    assert repository.ids() == []
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".staging")]


def test_many_movers_of_a_label_lose_no_move(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    ids = [publish(repository, bytes([i])) for i in range(8)]

    def move(bundle_id: str) -> None:
        Repository(tmp_path).promote(bundle_id, "stable")

    threads = [threading.Thread(target=move, args=(i,)) for i in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(move.bundle_id for move in repository.history("stable")) == sorted(ids)


def test_no_repository_is_made_among_other_files(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(BundleError, match=r"not empty \(it holds photo\.jpg\)"):
        Repository(tmp_path).create()
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(BundleError, match="is a file"):
        Repository(tmp_path / "photo.jpg").create()


def test_a_fresh_volume_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".snapshot").mkdir()
    Repository(tmp_path).create()
    assert Repository(tmp_path).ids() == []
