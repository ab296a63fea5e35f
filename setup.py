"""Drives CMake, which holds the build (CMakeLists.txt), from setuptools. Metadata: pyproject.toml.

Environment: SVDPRUNE_CUDA=ON builds the CUDA backend, SVDPRUNE_CUDA_ARCHITECTURES ("80;90a") names its
targets, CMAKE_ARGS is passed on.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CleanBuild(build):
    def run(self) -> None:
        # Or a module that is no longer there would be packed too, as an earlier build left it. An editable
        # install runs the sub-commands alone.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        # The folder of the package in the wheel. An editable install uses the source tree's, into which
        # setuptools itself copies the Python module only.
        targets = [Path(self.get_ext_fullpath(ext.name)).resolve().parent]
        if self.editable_mode:
            targets.append(ROOT / "svdprune_ext")
        folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        architectures = os.environ.get("SVDPRUNE_CUDA_ARCHITECTURES")
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSVDPRUNE_CUDA={os.environ.get('SVDPRUNE_CUDA', 'OFF')}",
            # Without it the default, not what the last build was for.
            f"-DSVDPRUNE_CUDA_ARCHITECTURES={architectures}"
            if architectures
            else "-USVDPRUNE_CUDA_ARCHITECTURES",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        for target in targets:  # of an earlier build with CUDA, lest it be loaded beside this one
            (target / "_C_cuda.so").unlink(missing_ok=True)
        subprocess.run(
            ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options], check=True
        )
        subprocess.run(["cmake", "--build", str(folder)], check=True)
        for target in targets:
            subprocess.run(["cmake", "--install", str(folder), "--prefix", str(target)], check=True)


setup(
    ext_modules=[Extension("svdprune_ext._native", sources=[])],
    cmdclass={"build": CleanBuild, "build_ext": CMakeBuild},
)
