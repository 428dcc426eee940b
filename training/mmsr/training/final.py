"""What a final run says of its quality: the metrics of the run that it was selected by."""

from dataclasses import asdict
from pathlib import Path

from mmsr.bundle.files import read_json, write_json
from mmsr.training.checkpoint import RunError, checkpoint_folder, load_run_info

EVALUATION = "evaluation.json"


def take_over_evaluation(final: Path) -> bool:
    """Copy the selecting run's evaluation.json, marked by "from"; False if it has none.

    A final run cannot be measured itself: nothing is held out of it.
    """
    selected_by = load_run_info(final).selected_by
    if selected_by is None:
        raise RunError(
            f"{final} is no final run; make one with: mmsr-train final RUN --out {final}"
        )
    path = Path(selected_by.run) / EVALUATION
    found = read_json(path, "the metrics of a run") if path.is_file() else {}
    if found.get("checkpoint") != selected_by.checkpoint:  # of an earlier or later best epoch
        return False
    checkpoint = checkpoint_folder(final, "best").name
    write_json(final / EVALUATION, {**found, "checkpoint": checkpoint, "from": asdict(selected_by)})
    return True
