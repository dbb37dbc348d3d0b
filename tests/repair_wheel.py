"""Make a wheel that runs elsewhere: auditwheel puts the OpenMP runtime into it; its licence goes beside it.

python tests/repair_wheel.py FOLDER WHEEL
"""

import subprocess
import sys
import tempfile
from pathlib import Path

#: Where distributions keep the licence of libgomp (GPL 3 with the GCC runtime library exception).
LICENCES = (
    "/usr/share/doc/libgomp1/copyright",  # Debian
    "/usr/share/licenses/libgcc/COPYING.RUNTIME",  # Fedora, AlmaLinux (manylinux)
    "/usr/share/licenses/libgcc/COPYING3",
    "/usr/share/licenses/libgomp/COPYING3",
)


def main() -> None:
    """Repair, and add the licences to the wheel's own."""
    folder, wheel = Path(sys.argv[1]), sys.argv[2]
    found = [path for path in map(Path, LICENCES) if path.is_file()]
    if not found:
        sys.exit(f"no licence of libgomp in {', '.join(LICENCES)}")
    with tempfile.TemporaryDirectory() as name:
        repaired, contents = Path(name, "repaired"), Path(name, "contents")
        subprocess.run(["auditwheel", "repair", "--wheel-dir", str(repaired), wheel], check=True)
        (made,) = repaired.glob("*.whl")
        subprocess.run([sys.executable, "-m", "wheel", "unpack", "--dest", str(contents), str(made)], check=True)
        (root,) = contents.iterdir()
        (licences,) = root.glob("*.dist-info/licenses")
        (licences / "libgomp").mkdir()
        for path in found:
            (licences / "libgomp" / path.name).write_bytes(path.read_bytes())
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "wheel", "pack", "--dest-dir", str(folder), str(root)], check=True)


if __name__ == "__main__":
    main()
