"""Puts a staged bundle through the gate in the precision that was asked for.

`auto` races the precisions first and takes the fastest that the gate lets pass; fp32 is the last.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mmsr.export.gate import ParityError
from mmsr.export.precision_race import by_speed, race, summary
from mmsr.export.variants import Converted, check_asked, install

AUTO = "auto"
Proof = TypeVar("Proof")
EMULATED = "computed in fp32 with each value rounded: ONNX Runtime has no bfloat16 on CPUs"


def prove_in_precision(
    asked: str, folder: Path, prove: Callable[[], Proof], race_stage: Callable[[], Any]
) -> Proof:
    """Write the bundle's sequence graph as asked, `prove` it, and record what was decided.

    `prove` raises `ParityError` where the bundle does not pass; with `auto` the next fastest is
    tried, and what was refused is recorded. `race_stage` opens a context for the race.
    """
    check_asked(asked)
    with tempfile.TemporaryDirectory() as spare:
        converted = Converted.copied_from(folder, Path(spare) / "fp32-as-converted.onnx")
        order, record = [asked], _record(asked)
        if asked == AUTO:
            with race_stage():
                times = race(folder, converted.path, Path(spare))
            order = by_speed(times)
            record |= {"why": summary(times), "race": {n: asdict(t) for n, t in times.items()}}
        return _first_that_passes(order, record, (folder, converted), prove)


def _record(asked: str) -> dict[str, Any]:
    why = EMULATED if asked == "bf16" else "as asked"
    return {"asked": asked, "sequence": asked, "why": why, "race": {}, "refused": {}}


def _first_that_passes(
    order: list[str],
    record: dict[str, Any],
    staged: tuple[Path, Converted],
    prove: Callable[[], Proof],
) -> Proof:
    folder, converted = staged
    refused: dict[str, str] = {}
    for precision in order:
        record |= {"sequence": precision, "refused": refused}
        install(folder, precision, converted, record)
        try:
            return prove()
        except ParityError as error:
            if precision == order[-1]:
                raise
            refused[precision] = str(error)
    raise AssertionError("no precision to try")
