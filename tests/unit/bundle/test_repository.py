"""Bundles are whole or not there; labels move atomically."""

import os
import threading
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
from mmsr.bundle.repository import Repository


def write_bundle(folder: Path, content: bytes = b"graph") -> Manifest:
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
        metrics={"test.masked.ndcg@10": 0.5},
    )
    manifest.save(folder)
    return manifest


def publish(repository: Repository, content: bytes) -> str:
    with repository.stage() as staged:
        write_bundle(staged, content)
        return repository.publish(staged)


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
    text = path.read_text()
    edits = {
        "half": text[: len(text) // 2],
        "another format": text.replace('"format_version": 1', '"format_version": 7'),
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


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    assert publish(repository, b"graph") == publish(repository, b"graph")
    assert len(repository.ids()) == 1
    assert not list(tmp_path.glob(".staging-*"))


def test_publishing_again_heals_a_damaged_bundle(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    bundle_id = publish(repository, b"graph")
    (repository.path(bundle_id) / "sequence.onnx").write_bytes(b"grapX")
    assert publish(repository, b"graph") == bundle_id
    bundle = repository.path(bundle_id)
    verify_files(bundle, load_manifest(bundle))


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
