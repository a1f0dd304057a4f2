"""Uses wheels and source distributions in clean environments: ``make installed``, ``make wheel``.

    python tests/installed.py dist/* [--torch torch==2.10.0 ...] [--python python3.13] [--cuda]

Each file with each torch is an environment of its own, in ``build/installed``. Raises what fails.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "installed"


def run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=FOLDER)  # where there are no sources


def tried(python: str, torch: str, file: Path, smoke: tuple[str, ...]) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    run(python, "-m", "venv", "env")
    own = str(FOLDER / "env" / "bin" / "python")
    source = not file.name.endswith(".whl")
    run(own, "-m", "pip", "install", "--quiet", torch, "numpy", *(["setuptools>=77"] if source else []))
    run(own, "-m", "pip", "install", "--quiet", "--no-deps", *(["--no-build-isolation"] if source else []), str(file))
    run(own, str(ROOT / "tests" / "smoke.py"), *smoke)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--python", default="python3")
    parser.add_argument("--torch", nargs="+", default=["torch"])
    parser.add_argument("--cuda", action="store_true", help="the CUDA kernels must be there, too")
    options = parser.parse_args()
    for file in options.files:
        for torch in options.torch:
            print(f"{file.name}, {options.python}, {torch}", flush=True)
            tried(options.python, torch, file.resolve(), ("--cuda",) * options.cuda)


if __name__ == "__main__":
    main()
