"""Try a wheel as its user does: an empty environment, no compiler, no source tree.

python tests/try_wheel.py dist/fusegrad-*.whl
"""

import os
import statistics
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

MOST_BYTES = 5 * 2**20
IMPORT = "import time, numpy; start = time.perf_counter(); import fusegrad; print(time.perf_counter() - start)"


def main() -> None:
    """Install, test, measure; exits with an error if something is not as promised."""
    wheel = Path(sys.argv[1]).resolve()
    tests = Path(__file__).parent
    names = zipfile.ZipFile(wheel).namelist()
    openmp = [name for name in names if "libgomp" in name]
    assert "manylinux" in wheel.name, f"expected a manylinux tag, got {wheel.name}"
    assert openmp, "the wheel holds no libgomp of its own"
    size = wheel.stat().st_size
    assert size <= MOST_BYTES, f"the wheel has {size} bytes"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        # no compiler on the path, nothing of this checkout
        environment = {"PATH": str(Path(folder, "bin")), "HOME": folder}
        environment |= {
            name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
        }

        def run(*command: str) -> str:
            found = subprocess.run(
                [python, *command], env=environment, cwd=folder, check=False, capture_output=True, text=True
            )
            if found.returncode:
                sys.exit(f"{' '.join(command)}\n{found.stdout[-20_000:]}\n{found.stderr[-5_000:]}")
            return found.stdout

        run("-m", "pip", "install", "--quiet", "--only-binary", ":all:", str(wheel))
        print(run("-m", "fusegrad", "info"))
        seconds = [float(run("-c", IMPORT)) for _ in range(15)]
        run("-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"{wheel}[test]")
        print(
            run(
                "-m",
                "pytest",
                "-q",
                "-m",
                "not peers and not exhaustive and not mpi",
                "-c",
                str(tests.parent / "pyproject.toml"),
                str(tests),
            )
        )
    print(f"{wheel.name}: {size / 2**20:.2f} MiB, {openmp[0]}")
    print(f"import: {1e3 * min(seconds):.1f} ms beyond NumPy, median {1e3 * statistics.median(seconds):.1f}")
    assert min(seconds) <= 0.030, "importing takes more than 30 ms beyond NumPy"


if __name__ == "__main__":
    main()
