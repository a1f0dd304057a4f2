"""Fashion-MNIST: the stratified subset that is shipped here, or the whole of it from a Debian package.

``python -m benchmarks.robustness.data`` draws the subset again from the whole set and says whether it is the shipped
one; with ``--write`` it writes it.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

SUBSET = Path(__file__).with_name("fashion_mnist_subset.npz")
SUBSET_SEED = 0
SUBSET_TRAIN, SUBSET_TEST = 200, 50  # images of each class
CLASSES = 10

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tgo_kernels" / "fashion-mnist"
SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
REMEDY = (
    f"Install the Debian package {PACKAGE}, or put the four files {', '.join(SHA256)} of Fashion-MNIST "
    f"(https://github.com/zalandoresearch/fashion-mnist) into {CACHE}"
)


class DataError(RuntimeError):
    """The data are missing or damaged; the message says what to do."""


class Split(NamedTuple):
    """Images [N, 28, 28] and labels [N], both uint8."""

    images: np.ndarray
    labels: np.ndarray

    def take(self, index: np.ndarray) -> "Split":
        return Split(self.images[index], self.labels[index])


class Dataset(NamedTuple):
    name: str
    train: Split
    test: Split

    def validation(self, per_class: int, seed: int = 1) -> "Dataset":
        """The training part alone, with ``per_class`` of its images of each class held out as the test part."""
        held_out = stratified(self.train.labels, per_class, seed)
        rest = np.setdiff1d(np.arange(len(self.train.labels)), held_out)
        return Dataset(f"{self.name}, validation split", self.train.take(rest), self.train.take(held_out))

    def limited(self, train: int | None, test: int | None, seed: int) -> "Dataset":
        """At most so many images of each part, the same number of each class; None leaves a part whole."""
        parts = [
            split if limit is None else split.take(stratified(split.labels, limit // CLASSES, seed))
            for split, limit in ((self.train, train), (self.test, test))
        ]
        return Dataset(self.name, *parts)


def load(name: str) -> Dataset:
    """``"subset"`` (shipped) or ``"full"`` (installed, cached, or fetched once)."""
    if name == "subset":
        return load_subset()
    if name == "full":
        return load_full(find_full())
    raise ValueError(f"data must be 'subset' or 'full', got {name!r}")


def load_subset(path: Path = SUBSET) -> Dataset:
    try:
        with np.load(path) as arrays:
            train = Split(arrays["train_images"], arrays["train_labels"])
            test = Split(arrays["test_images"], arrays["test_labels"])
    except Exception as error:
        raise DataError(f"cannot read {path} ({error}); it is part of the repository: restore it from there") from error
    return Dataset("Fashion-MNIST subset", train, test)


def digest(split: Split) -> str:
    return hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()[:16]


def stratified(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Ascending indices of ``per_class`` random items of every class.

    numpy's legacy generator is used because its stream is frozen: the same draw in every version.
    """
    if per_class < 1:
        raise DataError(f"at least {CLASSES} images are needed, one of each class")
    random = np.random.RandomState(seed)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(CLASSES)]
    return np.sort(np.concatenate(chosen))


def draw_subset(full: Dataset) -> Dataset:
    train = full.train.take(stratified(full.train.labels, SUBSET_TRAIN, SUBSET_SEED))
    test = full.test.take(stratified(full.test.labels, SUBSET_TEST, SUBSET_SEED))
    return Dataset("Fashion-MNIST subset", train, test)


def write_subset(subset: Dataset, path: Path = SUBSET) -> None:
    arrays = {
        f"{part}_{key}": getattr(getattr(subset, part), key) for part in ("train", "test") for key in Split._fields
    }
    np.savez_compressed(path, **arrays)


def load_full(folder: Path) -> Dataset:
    """The whole set from a folder with the four idx files, each checked against its known sum."""
    files = {name: checked(folder / name) for name in SHA256}
    train, test = (
        Split(read_idx(files[f"{p}-images-idx3-ubyte.gz"]), read_idx(files[f"{p}-labels-idx1-ubyte.gz"]))
        for p in ("train", "t10k")
    )
    return Dataset("Fashion-MNIST", train, test)


def checked(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} is missing. {REMEDY}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[path.name]:
        raise DataError(f"{path} is damaged: its SHA-256 is not Fashion-MNIST's. Delete it. {REMEDY}")
    return path


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a gzipped idx file: 0, 0, type 8, rank, the sizes in big-endian, the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are not those of an idx file of unsigned bytes")
        shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. {REMEDY}") from error


def find_full() -> Path:
    """The folder with the four files: Debian's where the package is installed, else the cache, filled at first use."""
    for folder in (INSTALLED, CACHE):
        if all((folder / name).is_file() for name in SHA256):
            return folder
    fetch(CACHE)
    return CACHE


def fetch(folder: Path) -> None:
    """Download and unpack the Debian package into ``folder``. Needs apt and dpkg-deb, and no root."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataError(f"--data full downloads Fashion-MNIST with {tool}, which is not here. {REMEDY}")
    print(f"fetching the Debian package {PACKAGE} (31 MB) into {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        # Package lists of our own where the system has none: apt-get update needs root only for the system's.
        own_lists = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        Path(scratch, "lists", "partial").mkdir(parents=True)
        try:
            try:
                _run(["apt-get", "download", PACKAGE], scratch)
            except subprocess.CalledProcessError:
                _run(["apt-get", *own_lists, "update"], scratch)
                _run(["apt-get", *own_lists, "download", PACKAGE], scratch)
            (package,) = Path(scratch).glob(f"{PACKAGE}_*.deb")
            _run(["dpkg-deb", "-x", package.name, "unpacked"], scratch)
        except (subprocess.CalledProcessError, ValueError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            raise DataError(f"fetching {PACKAGE} failed: {detail.strip().splitlines()[-1]}. {REMEDY}") from error
        unpacked = Path(scratch, "unpacked", *INSTALLED.parts[1:])
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHA256:
            shutil.copyfile(checked(unpacked / name), folder / name)


def _run(command: list[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {SUBSET.name}")
    write = parser.parse_args().write
    drawn = draw_subset(load("full"))
    if write:
        write_subset(drawn)
    shipped = load_subset()
    same = all(
        np.array_equal(a, b) for p, q in zip(drawn[1:], shipped[1:], strict=True) for a, b in zip(p, q, strict=True)
    )
    print(f"{SUBSET} ({SUBSET.stat().st_size / 2**20:.2f} MiB) is {'' if same else 'NOT '}the subset of the whole set")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
