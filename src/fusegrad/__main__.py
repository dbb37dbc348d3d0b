"""``python -m fusegrad`` is the command ``fusegrad``."""

from fusegrad.cli.main import run

if __name__ == "__main__":
    run()
