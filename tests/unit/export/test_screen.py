"""What `mmsr-export` shows a person: one screen of 80 columns."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.proven import GOOD, JUDGED

from mmsr.export.build import Proven
from mmsr.export.cli import Published
from mmsr.export.explain_parity import ExplainReport, LeftOut
from mmsr.export.gate import GateReport, Measured
from mmsr.export.held_out import Comparison, Gains, Interactions
from mmsr.export.precision_race import Timed, summary
from mmsr.export.quality import QualityReport

NEW, OLD = "0123456789abcdef", "fedcba9876543210"
COLUMNS, LINES = 80, 50
STAGES = {
    **{"graphs": 5.1, "explain": 2.96, "encoders": 9.2, "tables": 0.4, "hashes": 0.1},
    **{"race": 12.0, "parity": 31.75, "quality": 2.2, "triton": 1.3, "publish": 0.2},
}
WORSE = Comparison(users=900, ndcg=0.18, reference=0.2, low=-0.03, high=-0.01)
LEFT_OUT = LeftOut(score_error=2e-7, attention_error=1e-7, largest_change=0.5)
# Every row that there can be, each as long as it can be.
FULL = replace(
    GOOD,
    explain=ExplainReport(
        users=256,
        candidates=20,
        left_out=dict.fromkeys(("nothing", "id", "image", "text", "category"), LEFT_OUT),
    ),
    subsets={name: GOOD.subsets["no text"] for name in ("no image", "no text", "content only")},
    image_measured_in=OLD,
    text_measured_in=OLD,
    text_effect=WORSE,
)


def proven(parity: GateReport, quality: QualityReport) -> Proven:
    """Return both reports as an export has them; of the gains, nobody's."""
    nobody = Interactions(
        users_E=np.arange(0), histories=[], target_E=np.arange(0), exclude_seen=True
    )
    gains = Gains(asked=nobody, ndcg_E=np.zeros(0))
    return Proven(measured=Measured(report=parity, gains=gains, encoder_checks={}), quality=quality)


BASE = Published(
    bundle_id=NEW,
    folder=Path("/srv/shop/repository/versions") / NEW,
    label="stable",
    live=NEW,
    seconds=STAGES,
    proven=proven(FULL, JUDGED),
    reused=["sequence", "item", "explain", "image_encoder", "text_encoder"],
    item_rows={"folded": True, "columns": 1472, "why": "71 MiB of folded rows, at most 1024 MiB"},
    precision={"asked": "fp32", "sequence": "fp32", "why": "as asked", "refused": {}},
    engines="none of tensorrt, tensorrt_rtx is installed",
)


def screen(published: Published) -> list[str]:
    """Return the lines of it."""
    output = StringIO()
    published.show(Console(file=output, width=COLUMNS))
    return output.getvalue().splitlines()


def words(published: Published) -> str:
    """Return it as one line, however it was broken."""
    return " ".join(" ".join(screen(published)).split())


def judged(quality: QualityReport, parity: GateReport = FULL) -> Published:
    return replace(BASE, proven=proven(parity, quality))


RACE = {
    "bf16": Timed(why_not="ONNX Runtime has no kernel in bfloat16 for one of its nodes here"),
    "int8": Timed(p50_ms={1: 1.9}, gain=1.31, low=1.22, high=1.4),
}
CASES: dict[str, Published] = {
    "all there is": BASE,
    "no reuse, no encoders, no engine skipped": replace(
        BASE,
        reused=[],
        engines=None,
        proven=proven(
            replace(GOOD, image_min_cosine=None, text_min_cosine=None), replace(JUDGED, live=None)
        ),
    ),
    "a drop accepted": judged(
        replace(JUDGED, accept_drop=True, live=replace(JUDGED.live, ndcg=WORSE))  # type: ignore[type-var]
    ),
    "a live bundle that cannot be read": judged(
        replace(
            JUDGED,
            live=replace(  # type: ignore[type-var]
                JUDGED.live,
                ndcg=None,
                why="it is damaged, and no bundle before it can be read",
                damage="sequence.onnx: 1 bytes, the manifest says 123456",
            ),
        )
    ),
    "one before it that can": judged(
        replace(
            JUDGED,
            live=replace(JUDGED.live, damage="sequence.onnx: no such file", instead=OLD),  # type: ignore[type-var]
        )
    ),
    "raced and refused": replace(
        BASE,
        precision={
            "asked": "auto",
            "sequence": "fp32",
            "why": summary(RACE),
            "refused": {"int8": "sequence.onnx, all subsets: overlap 0.9712, at least 0.99"},
        },
    ),
}


@pytest.mark.parametrize("published", CASES.values(), ids=CASES)
def test_it_is_one_screen_of_80_columns(published: Published) -> None:
    lines = screen(published)
    assert max(map(len, lines)) <= COLUMNS
    assert len(lines) <= LINES


def test_every_stage_is_there_with_its_time() -> None:
    said = words(BASE)
    assert said.startswith("stages: graphs 5.1 s, explain 3.0 s, encoders 9.2 s")
    assert all(f"{name} {seconds:.1f} s" for name, seconds in STAGES.items())
    assert all(f"{name} {seconds:.1f} s" in said for name, seconds in STAGES.items())


def test_the_table_has_what_both_gates_measured() -> None:
    lines = screen(BASE)
    begins = {line.strip().split("  ")[0] for line in lines}
    graphs = {"sequence", "explain", "item", "item, sequence", "image encoder", "text encoder"}
    assert begins >= {"gate", "tables", "catalogue", "weights", "quality"} | graphs
    said = words(BASE)
    for part in (
        *("1000 histories, best 20", "overlap 1.0000, error 1.0e-06", "padded to 1 ... 50"),
        *("all 301 rows", "all 300 ids", "0 differ", "no image", "content only"),
        *("cosine 0.9999900", "NDCG@10 of 1000 users", "popularity, 900 users"),
        *(f"live {OLD[::-1]}", "0.2000 / 0.1000 (+0.0800 to +0.1200)"),
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("live", "said"),
    [
        (NEW, "live: stable names it now"),
        (OLD, f"live: stable still names {OLD}: no label moved"),
        (None, "live: stable still names no bundle: no label moved"),
    ],
)
def test_where_the_bundle_is_and_what_is_live(live: str | None, said: str) -> None:
    lines = screen(replace(BASE, live=live))
    assert lines[-1] == said
    assert f"bundle {NEW} in" in words(BASE)
    assert f"/srv/shop/repository/versions/{NEW}" in words(BASE)


def test_what_of_tensorrt_was_skipped_is_one_line_with_the_command_that_does_it() -> None:
    command = f"  mmsr-repo engines /srv/shop/repository {NEW}"
    lines = screen(BASE)
    place = lines.index(command)
    said = " ".join(" ".join(lines[place - 2 : place]).split())
    absent = "none of tensorrt, tensorrt_rtx is installed"
    assert said == f"TensorRT engines: skipped, {absent}; on a machine with a GPU:"
    lines = screen(replace(BASE, engines=None))
    assert lines[lines.index(command) - 1] == "TensorRT engines: next:"


def test_a_path_that_is_wider_than_the_screen_can_still_be_copied() -> None:
    folder = Path("/srv") / ("a-very-long-name/" * 6) / "repository/versions" / NEW
    lines = screen(replace(BASE, folder=folder))
    assert any(line.strip() == str(folder) for line in lines)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("a drop accepted", "accepted by --accept-drop: NDCG@10 0.1800 is 10.0% lower than 0.2000"),
        ("no reuse, no encoders, no engine skipped", "live bundle there is none yet"),
        ("raced and refused", "int8 refused: sequence.onnx, all subsets: overlap 0.9712"),
        ("all there is", "not converted again: sequence, item, explain, image_encoder"),
        ("all there is", "item rows hold the attention's queries and keys: 1472 columns; 71 MiB"),
        ("all there is", "sequence graph in fp32: as asked"),
    ],
)
def test_what_is_out_of_the_ordinary_is_said(case: str, said: str) -> None:
    assert said in words(CASES[case])


def test_without_reuse_nothing_is_said_of_it() -> None:
    assert "converted again" not in words(CASES["no reuse, no encoders, no engine skipped"])
