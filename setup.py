"""Builds the compiled engine against the torch that is installed, without importing or downloading it.

Under build isolation torch cannot be imported here, but its headers still lie in the environment that pip installs
into; the LibTorch stable ABI needs nothing more. Without torch, or without a C++ compiler, the package is installed
without the engine, and ``python -m tgo_kernels info`` says so.
"""

import os
import re
import runpy
import site
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


def torch_directory() -> Path | None:
    places = [*sys.path, sysconfig.get_path("platlib"), site.getusersitepackages()]
    if "VIRTUAL_ENV" in os.environ:
        base = {"base": os.environ["VIRTUAL_ENV"], "platbase": os.environ["VIRTUAL_ENV"]}
        places.append(sysconfig.get_path("platlib", scheme="nt" if os.name == "nt" else "posix_prefix", vars=base))
    spec = PathFinder.find_spec("torch", places)
    return Path(spec.origin).parent if spec and spec.origin else None


NATIVE = os.environ.get("TGO_KERNELS_NATIVE", "auto")  # 1: a failure to build is an error; 0: do not build
CUDA = os.environ.get("TGO_KERNELS_CUDA", "auto")  # 1: build the CUDA kernels; 0: do not; auto: where torch has CUDA
ARCHITECTURES = "8.0;9.0;10.0;12.0"  # unless TORCH_CUDA_ARCH_LIST says otherwise
CUDA_HOME = Path(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda")
NVCC = CUDA_HOME / "bin" / "nvcc"
COMPILER = runpy.run_path("tgo_kernels/compiler.py")


def builds_cuda(torch: Path) -> bool:
    if CUDA == "1" and not NVCC.exists():
        raise SystemExit(
            f"tgo_kernels: TGO_KERNELS_CUDA=1 needs nvcc, and there is none in {CUDA_HOME}/bin (CUDA_HOME)"
        )
    return NVCC.exists() and (CUDA == "1" or (CUDA == "auto" and (torch / "lib" / "libc10_cuda.so").exists()))


def targets() -> list[str]:
    """nvcc's options for the architectures, ``9.0+PTX`` for instance adds PTX that later ones translate."""
    options = []
    for entry in re.split("[; ]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES):
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", entry)
        if match is None:
            raise SystemExit(
                f"tgo_kernels: TORCH_CUDA_ARCH_LIST must list numbers such as 9.0 or 9.0+PTX, got {entry!r}"
            )
        number = match[1] + match[2]
        options += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if match[3]:
            options += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return options


class Build(build_ext):
    """Compiles sources side by side, ``.cu`` with nvcc. MAX_JOBS: how many, else as many as there are cores."""

    def build_extensions(self) -> None:
        plainly, jobs = self.compiler.compile, int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)

        def compiled(sources: list[str], **options: Any) -> list[str]:
            def one(source: str) -> list[str]:
                nvcc = source.endswith(".cu")
                return self.with_nvcc(source, jobs, **options) if nvcc else plainly([source], **options)

            with ThreadPoolExecutor(jobs) as pool:
                return [made for found in pool.map(one, sources) for made in found]

        self.compiler.compile = compiled
        super().build_extensions()

    def with_nvcc(
        self, source: str, jobs: int, *, output_dir: str, macros: list, include_dirs: list, **_: object
    ) -> list[str]:
        made = Path(output_dir, source).with_suffix(".cu.o")
        made.parent.mkdir(parents=True, exist_ok=True)
        command = [str(NVCC), "-c", source, "-o", str(made), "--threads", str(jobs), *targets()]
        command += ["-std=c++20", "-O3", "-fmad=false", "-Xcompiler", "-fPIC", "-DUSE_CUDA"]
        command += [f"-D{name}={value}" for name, value in macros]
        self.spawn([*command, *(f"-I{directory}" for directory in include_dirs)])
        return [str(made)]


def extensions() -> list[Extension]:
    torch = torch_directory()
    if NATIVE == "0":
        return []
    if torch is None:
        if NATIVE == "1":
            raise SystemExit("tgo_kernels: TGO_KERNELS_NATIVE=1 needs torch >= 2.10 installed first")
        print("tgo_kernels: torch is not installed, so the compiled engine is not built", file=sys.stderr)
        return []
    sources, libraries, directories = ["csrc/register.cpp", *glob("csrc/cpu/*.cpp")], ["c10", "torch_cpu"], []
    if builds_cuda(torch):
        targets()  # a wrong one is named before anything is compiled
        sources += glob("csrc/cuda/*.cu")
        libraries += ["cudart_static", "dl", "rt", "pthread"]
        directories = [str(CUDA_HOME / "lib64")]
    flags = [*COMPILER["FLAGS"], *os.environ.get("CXXFLAGS", "").split()]  # the last win
    return [
        Extension(
            "tgo_kernels._C",
            sources=sources,
            depends=glob("csrc/*.h", "csrc/*/*.h"),
            include_dirs=[str(torch / "include")],
            library_dirs=[str(torch / "lib"), *directories],
            libraries=libraries,
            define_macros=[
                ("TORCH_TARGET_VERSION", "0x020a000000000000"),  # runs with torch 2.10 and every later one
                ("TGO_HEADERS", '"{}"'.format(COMPILER["digest"](Path("csrc")))),
                ("TGO_FLAGS", '"{}"'.format(" ".join(flags))),
            ],
            extra_compile_args=flags,
            py_limited_api=True,
            optional=NATIVE != "1",
        )
    ]


class WithHeaders(build_py):
    """Puts the headers that neurons of users are compiled with into the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in COMPILER["headers"](Path("csrc")):
                to = Path(self.build_lib, "tgo_kernels", path)
                self.mkpath(str(to.parent))
                self.copy_file(str(path), str(to))


def glob(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path().glob(pattern))


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": Build, "build_py": WithHeaders},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
