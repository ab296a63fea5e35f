"""The source distribution, and a wheel's folder, hold what the source folder holds now, and no more."""

import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def source(tmp_path):
    """A copy of all that a build of the package reads, and a cmake that does nothing."""
    folder = tmp_path / "source"
    names = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
    folder.mkdir()
    for name in (*names, "CMakeLists.txt", "Makefile", ".clang-format"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    package = folder / "svdprune_ext"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "gone.py").touch()
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text("#!/bin/sh\n")
    cmake.chmod(cmake.stat().st_mode | stat.S_IXUSR)
    return folder


def setup(source, *arguments):
    path = os.pathsep.join([str(source.parent / "bin"), os.environ.get("PATH", "")])
    command = [sys.executable, "setup.py", "-q", *arguments]
    subprocess.run(command, cwd=source, env={**os.environ, "PATH": path}, check=True)


def test_a_module_that_was_removed_is_in_no_later_build(source):
    setup(source, "build", "--build-lib", "build/lib")
    built = source / "build/lib/svdprune_ext"
    assert (built / "gone.py").is_file()
    (source / "svdprune_ext/gone.py").unlink()
    (source / "svdprune_ext/_C.so").touch()  # an editable install's
    setup(source, "build", "--build-lib", "build/lib")
    assert [path.name for path in built.iterdir()] == ["__init__.py"]


def test_the_source_distribution_can_be_built(source):
    (source / "svdprune_ext/_C.so").touch()
    setup(source, "sdist", "--dist-dir", "dist")
    (archive,) = (source / "dist").iterdir()
    with tarfile.open(archive) as file:
        files = {name.partition("/")[2] for name in file.getnames()}
    sources = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()}
    assert sources | {"CMakeLists.txt", "CHANGELOG.md", "Makefile", "setup.py"} <= files
    assert not [name for name in files if name.endswith(".so")]
