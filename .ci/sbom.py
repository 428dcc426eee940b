"""Write what a server consists of to dist/, as CycloneDX: for CPUs, and for NVIDIA GPUs.

From the locks: names, versions and the hashes of all files; what a package itself needs is in the
package. The same locks give the same bytes.
"""

import os
import subprocess

from environments import ROOT, environment

DIST = ROOT / "dist"


def main() -> None:
    """Write both, checked against CycloneDX's schema."""
    tool = environment(".venv-sbom", "requirements-tools.txt") / "cyclonedx-py"
    DIST.mkdir(exist_ok=True)
    told = {"PYTHONWARNINGS": "ignore::UserWarning"}  # a lock knows no graph of dependencies
    for name in ("cpu", "cuda"):
        output = DIST / f"mmsr-serve-{name}.cdx.json"
        subprocess.run(
            [
                *(str(tool), "requirements", f".ci/requirements-{name}.txt"),
                *("--pyproject", "pyproject.toml", "--output-reproducible", "--validate"),
                *("--spec-version", "1.6", "--output-format", "JSON", "-o", str(output)),
            ],
            cwd=ROOT,
            env={**os.environ, **told},
            check=True,
        )
        print(f"sbom: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
