"""Builds accel._native from csrc/*.cpp when a C++ compiler is there; installs without it when not.

Everything else about the package is in pyproject.toml.
"""

import glob
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NANOBIND = os.path.dirname(nanobind.__file__)
HEADERS = glob.glob("csrc/*.h")


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags. OpenMP is left out where the usual compiler has none."""
    if sys.platform == "win32":
        return ["/std:c++17", "/O2", "/openmp", "/fp:precise"], []
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    # -ffp-contract=off: a fused multiply-add rounds once where two operations round twice, so
    # bytes would depend on the CPU the module happens to run on.
    # -fno-trapping-math: without it a choice between two values keeps a loop from vectorising.
    # -fno-wrapv: Python's own flags let whole numbers wrap round, and indices that may do so keep
    # loops from vectorising. None does: see csrc/sanitize.sh.
    compile = ["-std=c++17", "-O3", "-ffp-contract=off", "-g0"]
    compile += ["-fno-math-errno", "-fno-trapping-math", "-fno-wrapv"]
    return [*compile, "-fvisibility=hidden", "-fno-strict-aliasing", *openmp], [*openmp, "-s"]


def files_of(source: str, found: set[str]) -> set[str]:
    """Add to `found` a source, the headers of csrc that it names, and those that they name."""
    found.add(source)
    with open(source, encoding="utf-8") as file:
        # A definition may name one, too: simd.h includes what ACCEL_VECTOR_CODE stands for.
        named = re.findall(r'^#.*"(\w+\.h)"', file.read(), re.MULTILINE)
    for header in (os.path.join("csrc", name) for name in named):
        if header not in found and os.path.exists(header):
            files_of(header, found)
    return found


class BuildWhatChanged(build_ext):
    """Compile only what is newer than its object, on all cores.

    A failed build leaves a working install.
    """

    def copy_extensions_to_source(self):
        # A process that has the old module mapped would crash if it were overwritten in place.
        for ext in self.extensions:
            target = self.get_ext_fullpath(ext.name)
            if os.path.exists(target):
                os.unlink(target)
        super().copy_extensions_to_source()

    def build_extension(self, ext):
        compile_one, link = self.compiler._compile, self.compiler.link_shared_object
        running = []

        def compile_if_newer(obj, src, *rest):
            needs = files_of(src, {"setup.py"})
            if os.path.exists(obj) and all(
                os.path.getmtime(name) <= os.path.getmtime(obj) for name in needs
            ):
                return
            running.append(pool.submit(compile_one, obj, src, *rest))

        def link_compiled(*args, **options):
            for one in running:
                one.result()
            link(*args, **options)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.compiler._compile = compile_if_newer
            self.compiler.link_shared_object = link_compiled
            super().build_extension(ext)


# `make` installs first and builds in place after, so that objects are kept between builds.
NATIVE = (
    []
    if os.environ.get("ACCEL_SKIP_NATIVE")
    else [
        Extension(
            "accel._native",
            sorted(glob.glob("csrc/*.cpp"))
            + [os.path.relpath(os.path.join(NANOBIND, "src", "nb_combined.cpp"))],
            include_dirs=[
                nanobind.include_dir(),
                os.path.join(NANOBIND, "ext", "robin_map", "include"),
            ],
            depends=[*HEADERS, "setup.py"],
            extra_compile_args=flags()[0],
            extra_link_args=flags()[1],
            language="c++",
            # No compiler is no reason not to install: numba serves, and `accel doctor` says so.
            optional=not os.environ.get("ACCEL_REQUIRE_NATIVE"),
        )
    ]
)

setup(cmdclass={"build_ext": BuildWhatChanged}, ext_modules=NATIVE)
