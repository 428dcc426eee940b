"""The house rules that a machine can hold: sizes, exceptions, pickle, print, places."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support.tree import ROOT, source_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400

# Loops that must outlive whatever one task, request or file does wrong.
BROAD_EXCEPTS_ALLOWED = {
    Path("engine/mmsr/engine/rpc.py"),  # each call of the server
    Path("engine/mmsr/engine/catalogue/worker.py"),  # a process that reads a shop's image files
    Path("engine/mmsr/engine/compute.py"),  # the thread that computes batches
    Path("engine/mmsr/engine/reload.py"),  # bundles that are loaded beside the one that answers
    Path("training/mmsr/training/features/decode.py"),  # workers that read a shop's image files
}
# Formats that run code when they are read.
CODE_FORMATS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
}
# Where the package is imported for the name of an error alone.
CODE_FORMAT_IMPORTS_ALLOWED = {Path("training/mmsr/training/features/weights.py")}
PRINT_ALLOWED = re.compile(r"(^|/)(\w*cli|terminal|__main__)\.py$")
# Places of one machine, and hosts of package registries.
MACHINE_PLACES = re.compile(r"/work/|/root/|/home/\w|pypi\.org|pythonhosted\.org|localhost:8\d\d\d")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in source_files():
        for node in ast.walk(tree_of(path)):
            yield path, node


def at(path: Path, node: ast.AST) -> str:
    return f"{path}:{getattr(node, 'lineno', 0)}"


def called(node: ast.Call) -> str:
    """Return what is called as it is written: "pickle.load", "print"."""
    return ast.unparse(node.func)


def test_no_function_is_longer_than_a_page() -> None:
    long = [
        f"{at(path, node)} {node.name}: {length} lines"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_no_file_is_about_too_much() -> None:
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in source_files()}
    assert not [f"{path}: {n} lines" for path, n in sizes.items() if n > MAX_FILE_LINES]


def test_half_of_all_functions_are_short() -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for _, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 12


def test_only_the_outermost_loops_catch_everything() -> None:
    def is_broad(handler: ast.ExceptHandler) -> bool:
        caught = handler.type
        names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
        return any(
            name is None or ast.unparse(name) in ("Exception", "BaseException") for name in names
        )

    broad = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.ExceptHandler)
        and is_broad(node)
        and path not in BROAD_EXCEPTS_ALLOWED
    ]
    assert not broad, broad


def test_nothing_is_read_that_could_run_code() -> None:
    found = []
    for path, node in nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            runs_code = {name.partition(".")[0] for name in names} & CODE_FORMATS
            if runs_code and path not in CODE_FORMAT_IMPORTS_ALLOWED:
                found.append(f"{at(path, node)} imports {', '.join(names)}")
        if isinstance(node, ast.Call):
            found += [f"{at(path, node)} {problem}" for problem in unsafe_call(node)]
    assert not found, "\n".join(found)


def unsafe_call(node: ast.Call) -> Iterator[str]:
    """Say what is unsafe about a call, if anything."""
    name = called(node)
    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if name.partition(".")[0] in CODE_FORMATS:
        yield f"calls {name}"
    if options.get("allow_pickle") == "True":
        yield f"{name} with allow_pickle"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("eval", "exec", "os.system") or options.get("shell") == "True":
        yield f"calls {name}"


def test_asserts_only_tell_the_type_checker_what_holds() -> None:
    """With -O they are gone: nothing that comes from outside may depend on one."""

    def narrows(test: ast.expr) -> bool:
        if isinstance(test, ast.Compare):
            return isinstance(test.ops[0], ast.Is | ast.IsNot)
        return isinstance(test, ast.Call) and called(test) == "isinstance"

    found = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert not found, found


def test_only_commands_print() -> None:
    printing = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.Call)
        and called(node) == "print"
        and not PRINT_ALLOWED.search(path.as_posix())
    ]
    assert not printing, printing


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in source_files() if not ast.get_docstring(tree_of(path))]
    assert not silent, silent


def test_no_grab_bags_and_no_open_ended_parameters() -> None:
    names = [str(p) for p in source_files() if p.stem in ("utils", "util", "helpers", "misc")]
    assert not names
    open_ended = [
        f"{at(path, node)} {node.name}"
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.args.kwarg is not None
        and ast.unparse(node.args.kwarg.annotation or node) == "Any"
    ]
    assert not open_ended, open_ended


def text_files() -> list[Path]:
    """Return every file of the project, as git sees it (also what is not committed yet)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_place_of_one_machine_is_written_down() -> None:
    here = Path(__file__).relative_to(ROOT)
    found = []
    for path in text_files():
        if path == here or path.suffix in (".png", ".parquet", ".npz", ".safetensors"):
            continue
        for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1):
            if MACHINE_PLACES.search(line):
                found.append(f"{path}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)
