"""Run the benchmarks and print one table of ratios: ``make bench``."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import fusegrad


def main() -> None:
    """Run pytest-benchmark, read its JSON, print a row a group."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        command = [
            sys.executable, "-m", "pytest", "-q", "--no-header", "--benchmark-only", "--benchmark-disable-gc",
            "--benchmark-max-time=0.2", "--benchmark-min-rounds=5", "--benchmark-quiet", f"--benchmark-json={results}",
            str(Path(__file__).parent), *sys.argv[1:],
        ]  # fmt: skip
        finished = subprocess.run(command, check=False)
        if finished.returncode:
            sys.exit(finished.returncode)
        benchmarks = json.loads(results.read_text())["benchmarks"]
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for benchmark in benchmarks:
        groups.setdefault(benchmark["group"], {})[benchmark["params"]["system"]] = benchmark["stats"]
    fusegrad.show_config()
    print(f"\n{'microseconds, minimum and median':<62}{'fusegrad':>20}{'NumPy':>20}{'ratio':>8}{'median':>8}")
    for name, systems in groups.items():
        ours, theirs = systems["fusegrad"], systems["numpy"]
        cells = [f"{1e6 * stats['min']:.1f} {1e6 * stats['median']:.1f}" for stats in (ours, theirs)]
        ratios = [f"{theirs[of] / ours[of]:.1f}x" for of in ("min", "median")]
        print(f"{name:<62}{cells[0]:>20}{cells[1]:>20}{ratios[0]:>8}{ratios[1]:>8}")


if __name__ == "__main__":
    main()
