"""The compiler's cache: what is kept, and what is never run."""

import ctypes
import os
import shutil
import stat
import sys

import pytest

from tgo_kernels import compiler

pytestmark = pytest.mark.skipif(not any(map(shutil.which, compiler.COMPILERS)), reason="needs a C++ compiler")
TEXT = 'extern "C" __attribute__((visibility("default"))) int number = {};'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "of" / "cache"))
    return tmp_path / "of" / "cache"


@pytest.fixture
def made(monkeypatch):
    """The texts that are compiled."""
    texts, compiled = [], compiler._compiled
    monkeypatch.setattr(compiler, "_compiled", lambda text: texts.append(text) or compiled(text))
    return texts


def number(value, *versions):
    return ctypes.c_int.in_dll(compiler.library(TEXT.format(value), *versions), "number").value


def test_a_text_is_compiled_once_by_each_version(folder, made, monkeypatch):
    asked = [(1, "a"), (1, "a"), (2, "a"), (1, "b"), (1, "b")]
    assert [number(*each) for each in asked] == [1, 1, 2, 1, 1] and len(made) == 3
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
    assert number(1, "a") == 1 and len(made) == 4
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()) == [0o600] * 4


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_others_could_have_written_is_not_run(what, folder, made, tmp_path):
    assert number(1) == 1
    (kept,) = folder.iterdir()
    if what == "link":
        kept.rename(tmp_path / "elsewhere.so")
        kept.symlink_to(tmp_path / "elsewhere.so")
    else:
        (folder if what == "folder" else kept).chmod(0o777)
    with pytest.raises(PermissionError, match="others could write it: nothing in there is run"):
        number(1)
    assert len(made) == 1


def test_a_folder_of_another_user_is_not_used(folder, made, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match=f"{folder} is not the user's"):
        number(1)
    assert not made and not list(folder.iterdir())


def test_a_folder_that_is_there_stays_as_it_is(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    assert number(3) == 3 and stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("left", [0, 20, 4000])
def test_what_is_not_whole_is_compiled_again(folder, made, left, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", str)  # a library that is loaded may not shrink
    compiler.library("int a;")
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:left])
    compiler.library("int a;")
    compiler.library("int a;")
    assert len(made) == 2 and len(kept.read_bytes()) == len(whole)


def test_what_a_compiler_says_is_told(monkeypatch):
    with pytest.raises(RuntimeError, match=r"failed: .*error: .*nonsense"):
        compiler.library("nonsense;")
    monkeypatch.setenv(
        "CXX", sys.executable + r""" -c 'import sys; sys.stderr.buffer.write(b"\xff no"); sys.exit(1)'"""
    )
    with pytest.raises(RuntimeError, match=r"failed: .* no"):
        compiler.library("int a;")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(FileNotFoundError, match=r"there is no C\+\+ compiler: no-such-compiler"):
        compiler.library("int a;")
