"""The system's C++ compiler, and what it makes of neurons of users: kept in a folder that nobody else can write.

setup.py runs this file, too, for the flags and the headers: nothing here asks for torch.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

CACHE = "TGO_KERNELS_CACHE"
COMPILERS = "c++", "g++", "clang++"
FLAGS = (
    *("-std=c++20", "-O3", "-g0"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # the same bits on every machine
    *("-Wno-psabi", "-Wno-maybe-uninitialized"),  # gcc takes steps past T for read
)


def headers(folder: Path) -> list[Path]:
    """Those of CPUs in csrc/."""
    return sorted(path for pattern in ("*.h", "cpu/*.h", "steps/*.h") for path in folder.glob(pattern))


def digest(folder: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in headers(folder))).hexdigest()


@functools.cache
def csrc() -> Path:
    """In the package where it is installed, beside it in a clone."""
    here = Path(__file__).parent
    return next((each for each in (here / "csrc", here.parent / "csrc") if each.is_dir()), here / "csrc")


def compiler() -> list[str]:
    """``CXX``, or what there is. Raises FileNotFoundError."""
    asked = shlex.split(os.environ.get("CXX", ""))
    found = next(filter(None, map(shutil.which, asked[:1] or COMPILERS)), None)
    if found is None:
        raise FileNotFoundError(f"there is no C++ compiler: {' or '.join(asked[:1] or COMPILERS)}, or as CXX says")
    return [found, *asked[1:]]


def library(text: str, *versions: str) -> ctypes.CDLL:
    """``text`` as a shared library, compiled unless it has been before, by the same versions and flags.

    Raises FileNotFoundError without a compiler, RuntimeError with what a compiler said, and PermissionError where
    others than the user could have written what would be loaded.
    """
    key = "\0".join([text, *versions, platform.machine(), *FLAGS])
    name = f"{hashlib.sha256(key.encode()).hexdigest()}.so"
    path = _folder()
    # By its descriptor: its path may come to lead elsewhere.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check(os.fstat(descriptor), path)
        if not _whole(descriptor, path / name):
            _keep(descriptor, name, _compiled(text))
        here = f"/proc/self/fd/{descriptor}"
        return ctypes.CDLL(f"{here if os.path.isdir(here) else path}/{name}")
    finally:
        os.close(descriptor)


def _folder() -> Path:
    """The cache's, which is made where there is none."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get(CACHE) or Path(home, "tgo_kernels"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return path


def _check(about: os.stat_result, path: Path) -> None:
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(about.st_mode)
    if about.st_uid != os.geteuid() or others:
        raise PermissionError(
            f"{path} is not the user's, or others could write it: nothing in there is run; {CACHE} names another folder"
        )


def _whole(folder: int, path: Path) -> bool:
    """Whether there is such a library, as it was written: a digest of it stands at its end."""
    try:
        _check(os.stat(path.name, dir_fd=folder, follow_symlinks=False), path)
    except FileNotFoundError:
        return False
    with os.fdopen(os.open(path.name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        written = file.read()
    return hashlib.sha256(written[:-32]).digest() == written[-32:]


def _compiled(text: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tgo_kernels") as scratch:
        made = Path(scratch, "neuron.so")
        command = [*compiler(), *FLAGS, "-shared", "-fPIC", "-fvisibility=hidden", "-x", "c++", "-", "-o", str(made)]
        # Its #include lines are those of a file in csrc/steps.
        ran = subprocess.run(command, cwd=csrc() / "steps", input=text.encode(), capture_output=True, check=False)
        if ran.returncode:
            said = ran.stderr.decode(errors="replace").strip()[:2000]
            raise RuntimeError(f"{shlex.join(command)} failed: {said}")
        return made.read_bytes()


def _keep(folder: int, name: str, made: bytes) -> None:
    """Whole or not at all: another process may do the same."""
    part = f"{secrets.token_hex(8)}.part"
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=folder), "wb") as file:
        file.write(made + hashlib.sha256(made).digest())
    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
