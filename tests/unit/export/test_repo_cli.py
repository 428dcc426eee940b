"""`mmsr-repo` list, prune, diff, push, pull and triton as a user types them."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import Sizes, make_twin, manifest_of, seal, write_files

from mmsr.bundle.repository import Repository
from mmsr.export import repo_cli
from mmsr.export.gate import ParityError, require_none
from mmsr.export.listing import age, list_lines, size

Command = Callable[..., tuple[int, str, str]]
SMALL = Sizes(items=30, spare=4, width=4, extra_width=2, max_length=5, probes=8)


@pytest.fixture
def repo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `mmsr-repo`; it gives exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmsr-repo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            repo_cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return code if isinstance(code, int) else 0, out, err

    return run


def add(repository: Repository, seed: int, label: str | None, ndcg: float) -> str:
    manifest = replace(
        manifest_of(SMALL),
        metrics={"test.masked.ndcg@10": ndcg},
        parity={"sequence": {"overlap": 1.0}},
    )
    with repository.stage() as folder:
        write_files(folder, make_twin(SMALL, seed), SMALL)
        seal(folder, manifest)
        return repository.publish(folder, label)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repository")
    add(repository, 0, "stable", 0.1234)
    add(repository, 1, "stable", 0.25)
    add(repository, 2, None, 0.5)
    return repository


def test_the_history_says_why_a_server_moved_the_label(
    repository: Repository, repo: Command
) -> None:
    first, second, third = repository.ids()
    repository.promote(third, "canary")
    why = f"{third} was rolled back: overlap@k of 100 shadow requests in 60 s is 0.12, limit 0.5"
    repository.promote(second, "canary", why)
    code, out, _ = repo("history", repository.root, "canary")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.index(third) < out.index(second)
    shown = [line.split(maxsplit=2) for line in out.splitlines() if line.strip()]
    assert [row[1] for row in shown if row[1:2] in ([second], [third])] == [third, second]
    for word in why.split():
        assert word in out
    _, out, _ = repo("history", repository.root, "canary", "--json")
    moves = json.loads(out)
    assert [move["bundle_id"] for move in moves] == [third, second]
    assert [move["reason"] for move in moves] == [None, why]
    _, out, _ = repo("history", repository.root, "stable", "--json")
    assert [move["bundle_id"] for move in json.loads(out)] == [first, second]
    code, _, err = repo("history", repository.root, "nightly")
    assert code == 1
    assert "no label 'nightly'" in err


def test_the_list_fits_80_columns_and_says_what_there_is(
    repository: Repository, repo: Command
) -> None:
    first, second, third = repository.ids()
    for label in ("canary", "a-label-with-a-rather-long-name", "nightly-of-the-shop"):
        repository.promote(third, label)
    (repository.path(first) / "manifest.json").write_text("{")
    code, out, err = repo("list", repository.root)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "damaged" in lines[first]
    assert f"warning: {repository.path(first)}/manifest.json" in err
    files = repository.manifest(second).files.values()
    wanted = f"30 {size(sum(entry.bytes for entry in files))} 0.2500 1.0000 stable"
    assert lines[second].split()[3:] == wanted.split()
    below = out[out.index(third) :].split()
    assert "canary" in " ".join(below)
    assert "a-label-with-a-rather-long-name" in "".join(below)  # folded, not cut


def test_the_list_for_machines(repository: Repository, repo: Command) -> None:
    _, out, _ = repo("list", repository.root, "--json")
    lines: list[dict[str, Any]] = json.loads(out)
    assert [line["bundle_id"] for line in lines] == repository.ids()
    assert [line["labels"] for line in lines] == [[], ["stable"], []]
    assert lines[0]["metrics"] == {"test.masked.ndcg@10": 0.1234}
    assert (lines[1]["items"], lines[1]["overlap"], lines[1]["problem"]) == (30, 1.0, None)


def test_age_is_told_from_the_publication(repository: Repository) -> None:
    now = datetime.now(UTC)
    lines = list_lines(repository, now + timedelta(hours=49))
    assert {age(line.age_s) for line in lines} == {"2 d"}
    assert [age(s) for s in (0.2, 59, 61, 7300, 86400 * 400)] == [
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "400 d",
    ]
    assert [size(n) for n in (0, 2047, 5 << 20, 3 << 30)] == ["0 B", "2 KiB", "5 MiB", "3.0 GiB"]


def test_prune_says_what_it_keeps_and_frees(repository: Repository, repo: Command) -> None:
    fresh = add(repository, 3, None, 0.1)
    first, second, third, _ = repository.ids()
    code, out, _ = repo("prune", repository.root, "--keep", 1, "--dry-run")
    assert f"old     {third}" in out
    assert "1 bundle of 4, would free 1" in out
    assert len(repository.ids()) == 4
    code, out, _ = repo("prune", repository.root, "--keep", 1)
    assert code == 0
    assert out.splitlines()[:4] == [
        f"kept    {fresh}  among the 1 newest",
        f"kept    {second}  stable names it",
        f"kept    {first}  stable named it last",
        f"removed {third}",
    ]
    assert "1 bundle of 4, freed 1" in out
    code, out, _ = repo("prune", repository.root, "--keep", 1, "--json")
    assert json.loads(out)["removed"] == []


def test_diff_takes_labels_and_ids(repository: Repository, repo: Command) -> None:
    _, second, third = repository.ids()
    code, out, err = repo("diff", repository.root, "stable", third)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert "0.2500" in out
    assert "+0.2500" in out
    assert "catalogue: 30 items, then 30" in out
    assert "overlap@20 " in out
    code, out, _ = repo("diff", repository.root, second, third, "--json")
    found = json.loads(out)
    assert found["metrics"] == {"test.masked.ndcg@10": [0.25, 0.5]}
    assert 0 < found["top_k"]["rank_biased_overlap"] < 1
    code, _, err = repo("diff", repository.root, "stable", "beta")
    assert code == 1
    assert "no bundle and no label 'beta'; labels: stable; bundles: " in err


def test_push_and_pull_say_what_they_did(
    repository: Repository, repo: Command, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/bucket"
    code, out, err = repo("push", repository.root, url)
    assert (code, err) == (0, "")
    assert out.startswith(f"stable is {repository.ids()[1]}\npushed ")
    there = Repository(tmp_path / "there")
    code, out, _ = repo("pull", url, there.root, "--label", "stable", "--json")
    assert json.loads(out)["labels"] == {"stable": repository.ids()[1]}
    assert there.resolve("stable").name == repository.ids()[1]
    code, _, err = repo("pull", url, there.root, "--label", "beta")
    assert code == 1
    assert err.startswith("error: no label 'beta'")


def test_triton_says_what_it_wrote(repository: Repository, repo: Command, tmp_path: Path) -> None:
    target = tmp_path / "triton"
    assert repo("triton", repository.root, "stable", target) == (
        0,
        f"{target}/sequence: version 1 written\n",
        "",
    )
    assert repo("triton", repository.root, repository.ids()[2], target)[1].endswith(
        "version 2 written\n"
    )
    assert repo("triton", repository.root, repository.ids()[2], target)[1].endswith(
        "version 2 as it was\n"
    )


def test_verify_does_not_speak_of_publishing() -> None:
    with pytest.raises(ParityError) as refused:
        require_none(["7 rows differ", "2 weights differ"])
    assert "nothing was published" in str(refused.value)
    assert str(repo_cli.of_published(refused.value)) == "7 rows differ; 2 weights differ"
