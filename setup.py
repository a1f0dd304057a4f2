"""Builds the compiled engine against the torch that is installed, without importing or downloading it.

Under build isolation torch cannot be imported here, but its headers still lie in the environment that pip installs
into; the LibTorch stable ABI needs nothing more. Without torch, or without a C++ compiler, the package is installed
without the engine, and ``python -m tgo_kernels info`` says so.
"""

import os
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import Extension, setup


def torch_directory() -> Path | None:
    places = [*sys.path, sysconfig.get_path("platlib"), site.getusersitepackages()]
    if "VIRTUAL_ENV" in os.environ:
        base = {"base": os.environ["VIRTUAL_ENV"], "platbase": os.environ["VIRTUAL_ENV"]}
        places.append(sysconfig.get_path("platlib", scheme="nt" if os.name == "nt" else "posix_prefix", vars=base))
    spec = PathFinder.find_spec("torch", places)
    return Path(spec.origin).parent if spec and spec.origin else None


NATIVE = os.environ.get("TGO_KERNELS_NATIVE", "auto")  # 1: a failure to build is an error; 0: do not build


def extensions() -> list[Extension]:
    torch = torch_directory()
    if NATIVE == "0":
        return []
    if torch is None:
        if NATIVE == "1":
            raise SystemExit("tgo_kernels: TGO_KERNELS_NATIVE=1 needs torch >= 2.10 installed first")
        print("tgo_kernels: torch is not installed, so the compiled engine is not built", file=sys.stderr)
        return []
    include = torch / "include"
    return [
        Extension(
            "tgo_kernels._C",
            sources=["csrc/register.cpp", *sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp"))],
            depends=sorted(str(path) for path in Path("csrc").rglob("*.h")),
            include_dirs=[str(include), str(include / "torch/csrc/api/include")],
            library_dirs=[str(torch / "lib")],
            libraries=["c10", "torch_cpu"],
            define_macros=[
                ("Py_LIMITED_API", "0x030A0000"),
                ("TORCH_TARGET_VERSION", "0x020a000000000000"),  # runs with torch 2.10 and every later one
            ],
            extra_compile_args=[
                *("-std=c++20", "-O3", "-g0"),
                *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),  # the same bits on every machine
                "-Wno-psabi",
            ],
            py_limited_api=True,
            optional=NATIVE != "1",
        )
    ]


setup(ext_modules=extensions(), options={"bdist_wheel": {"py_limited_api": "cp310"}})
