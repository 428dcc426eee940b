"""What the engine must not drag in, shown in fresh interpreters."""

import subprocess
import sys

EVERYTHING = (
    "mmsr.engine.cli, mmsr.engine.server, mmsr.engine.client, mmsr.engine.client_cli, "
    "mmsr.engine.probe"
)


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_engine_works_where_torch_cannot_be_imported() -> None:
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None"
    found = python(
        f"{blocked}; import {EVERYTHING}; print([m for m in sys.modules if 'torch' in m])"
    )
    assert found.strip() == "['torch']"


def test_help_needs_nothing_installed() -> None:
    blocked = "import sys; [sys.modules.__setitem__(m, None) for m in ('grpc', 'onnxruntime')]"
    show = "[m.app(['--help'], standalone_mode=False) for m in (cli, client_cli)]"
    text = python(f"{blocked}; from mmsr.engine import cli, client_cli; {show}")
    assert "--max-wait-ms" in text
    assert "--deadline-ms" in text


def test_the_client_does_not_load_onnx_runtime() -> None:
    code = "import sys, mmsr.engine.client; print('onnxruntime' in sys.modules)"
    assert python(code).strip() == "False"
