"""What may import what: serving without torch, and one namespace in four folders.

import-linter holds the rest (`make check`); here is what only running can show.
"""

import subprocess
import sys

import pytest
from support.tree import ROOT, SOURCE_ROOTS, source_files

IMPORT_ALL = """
import importlib, sys
blocked, modules = sys.argv[1].split(","), sys.argv[2].split(",")
for name in blocked:
    sys.modules[name] = None  # any import of it now raises ImportError
for name in modules:
    importlib.import_module(name)
loaded = {name.partition(".")[0] for name in sys.modules if sys.modules[name] is not None}
assert not loaded & set(blocked), loaded & set(blocked)
"""


def modules_of(*packages: str) -> list[str]:
    """Return every module below the packages, by name."""
    names = []
    for path in source_files():
        parts = path.with_suffix("").parts[1:]  # without the source root
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name.startswith(packages):
            names.append(name)
    return names


def import_without(blocked: tuple[str, ...], modules: list[str]) -> None:
    command = [sys.executable, "-c", IMPORT_ALL, ",".join(blocked), ",".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_of_serving_imports_without_torch() -> None:
    modules = modules_of("mmsr.bundle", "mmsr.v1", "mmsr.oip", "mmsr.engine")
    assert len(modules) > 20
    import_without(("torch", "torchvision", "transformers"), modules)


def test_the_repository_command_needs_no_torch() -> None:
    """But for `verify --run`, which asks the trained model; engines are built on a GPU host."""
    parts = ("repo_cli", "listing", "diff", "prune", "transfer", "object_store", "triton")
    modules = [f"mmsr.export.{part}" for part in parts]
    modules += ["mmsr.export.precision", *modules_of("mmsr.export.tensorrt"), "mmsr.engine.probe"]
    assert "mmsr.export.tensorrt.engines" in modules
    import_without(("torch", "torchvision"), modules)


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_mmsr_stays_a_namespace(root: str) -> None:
    assert not (ROOT / root / "mmsr" / "__init__.py").exists(), (
        f"{root}/mmsr/__init__.py would hide the other folders' part of mmsr: delete it"
    )


def test_every_package_says_that_it_is_typed() -> None:
    for package in ("training/mmsr/training", "export/mmsr/export", "engine/mmsr/engine"):
        assert (ROOT / package / "py.typed").is_file()
    for package in ("proto/mmsr/v1", "proto/mmsr/oip", "proto/mmsr/bundle"):
        assert (ROOT / package / "py.typed").is_file()
