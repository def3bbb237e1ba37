"""The installed package, and what `pip install ./python` says when something is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import autoep
from autoep.core.native import engine

PYTHON_FOLDER = Path(__file__).resolve().parents[1]
CHECKOUT = PYTHON_FOLDER.parent
SOURCES = PYTHON_FOLDER / "src" / "autoep"


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_versions_agree() -> None:
    assert autoep.__version__ == engine.version() == importlib.metadata.version("autoep")


def test_import_loads_neither_torch_nor_numpy_nor_the_engine() -> None:
    loaded = run_python(
        "import sys; before = set(sys.modules); import autoep;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    assert not {"torch", "numpy", "transformers"} & set(loaded.split())
    assert run_python("import sys, autoep; print('autoep._engine' in sys.modules)") == "False"


def test_import_is_fast() -> None:
    """The fastest of ten: others may use the machine meanwhile."""
    code = "import time; t = time.perf_counter(); import autoep; print(time.perf_counter() - t)"
    times = (float(run_python(code)) for _ in range(10))
    assert any(time < 0.1 for time in times)


def test_the_names_of_the_package() -> None:
    assert autoep.functional.route
    assert autoep.Communicator.alone().size == 1
    assert set(autoep.__all__) <= set(dir(autoep))
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        autoep.optimise  # noqa: B018


def test_a_missing_engine_is_told(tmp_path: Path) -> None:
    copy = tmp_path / "autoep"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("*.so"))
    result = subprocess.run(
        [sys.executable, "-c", "import autoep; autoep.functional"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "MissingLibraryError: the engine of autoep cannot be loaded" in result.stderr
    assert "pip install ./python" in result.stderr


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a new virtual environment that has what pip would bring to a build."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "setuptools>=77"]
    subprocess.run(command, check=True)
    return python


def build(python: str, folder: Path, path: str) -> str:
    """Runs the build, which must fail; returns what it says."""
    result = subprocess.run(
        [python, "setup.py", "build_ext"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    return result.stderr


def copy_of_the_checkout(target: Path) -> Path:
    """Copies what the build looks at, without the Swift sources' contents."""
    ignored = shutil.ignore_patterns("build", "*.so", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(PYTHON_FOLDER, target / "python", ignore=ignored)
    shutil.copytree(CHECKOUT / "include", target / "include")
    shutil.copy(CHECKOUT / "Package.swift", target)
    (target / "Sources" / "AutoEP").mkdir(parents=True)
    return target / "python"


@pytest.mark.slow
def test_a_folder_without_its_checkout_is_refused(fresh_python: str, tmp_path: Path) -> None:
    folder = copy_of_the_checkout(tmp_path)
    (tmp_path / "Package.swift").unlink()
    text = build(fresh_python, folder, os.environ["PATH"])
    assert f"{tmp_path} has no Package.swift" in text
    assert "Clone the repository" in text


@pytest.mark.slow
def test_a_missing_swift_is_named(fresh_python: str, tmp_path: Path) -> None:
    text = build(fresh_python, copy_of_the_checkout(tmp_path), str(tmp_path / "nothing"))
    assert "there is no `swift` on the PATH. Install Swift 6.2 or newer" in text


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["Swift version 6.1.2", "no such tool"])
def test_an_old_or_broken_swift_is_named(answer: str, fresh_python: str, tmp_path: Path) -> None:
    folder = copy_of_the_checkout(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "swift").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (tools / "swift").chmod(0o755)
    text = build(fresh_python, folder, str(tools))
    assert "is too old or broken" in text
    assert "Install Swift 6.2 or newer" in text
    assert ("Swift version 6.1" if "6.1" in answer else answer) in text


def test_the_extension_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    assert compiler is not None
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-c", "-fPIC"]
    command += ["-DPy_LIMITED_API=0x030A0000", f"-I{sysconfig.get_path('include')}"]
    command += [
        f"-I{CHECKOUT / 'include'}",
        *map(str, sorted((PYTHON_FOLDER / "extension").glob("*.c"))),
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_clean_clone_installs_twice(fresh_python: str, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    for _ in range(2):
        install = subprocess.run(
            [fresh_python, "-m", "pip", "install", "--force-reinstall", "./python"],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert install.returncode == 0, install.stdout + install.stderr
        check = "import autoep; print(autoep.__version__, autoep.functional.num_threads() > 0)"
        answer = subprocess.run(
            [fresh_python, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert answer.stdout.strip() == f"{autoep.__version__} True", answer.stderr
    # git ignores everything that the build leaves behind.
    left = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert left.stdout == ""
