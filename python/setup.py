"""Builds libautoep.so from the checkout around this folder, and the C extension on top of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
SWIFT_BUILD = HERE / "build" / "swift"
MINIMUM_SWIFT = (6, 2)
ENGINE = "libautoep.so"
MPI_TRANSPORT = "libautoep_mpi.so"


def require_checkout() -> None:
    """Stops if the engine's sources are not beside this folder."""
    missing = [
        name
        for name in ("Package.swift", "Sources/AutoEP", "include/autoep.h")
        if not (CHECKOUT / name).exists()
    ]
    if missing:
        sys.exit(
            f"autoep: cannot build, because {CHECKOUT} has no {', '.join(missing)}. The package"
            " is built from a whole checkout of the AutoEP repository, whose Swift sources stand"
            " beside the folder `python`; a source distribution or a copy of that folder alone is"
            " not enough. Clone the repository and run `pip install ./python` in it."
        )


def require_swift() -> str:
    """Returns the Swift driver; stops if there is none or it is too old."""
    wanted = ".".join(map(str, MINIMUM_SWIFT))
    advice = (
        f"Install Swift {wanted} or newer (https://www.swift.org/install/linux/), see that"
        " `swift --version` runs in this shell, and run `pip install ./python` again."
    )
    swift = shutil.which("swift")
    if swift is None:
        sys.exit(
            "autoep: cannot build, because the engine is written in Swift and there is no"
            f" `swift` on the PATH. {advice}"
        )
    answer = subprocess.run([swift, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Swift version (\d+)\.(\d+)", answer.stdout)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM_SWIFT:
        given = found[0] if found else (answer.stdout + answer.stderr).strip() or "no version"
        sys.exit(
            f"autoep: cannot build, because {swift} is too old or broken: it says {given!r}."
            f" {advice}"
        )
    return swift


def run(command: list[str], what: str) -> None:
    """Runs a build command; stops with its name when it fails."""
    print(f"autoep: {what}: {' '.join(command)}", flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"autoep: cannot build, because {what} failed; its output stands above.")


def build_engine(target: Path) -> None:
    """Puts libautoep.so into the package."""
    command = [require_swift(), "build", "-c", "release", "--product", "autoep"]
    command += ["--package-path", str(CHECKOUT), "--scratch-path", str(SWIFT_BUILD)]
    run(command, "the build of the Swift library")
    shutil.copy2(SWIFT_BUILD / "release" / ENGINE, target / ENGINE)


def build_mpi_transport(target: Path) -> None:
    """Puts libautoep_mpi.so into the package where there is an MPI to build it with."""
    compiler = shutil.which("mpicc") or shutil.which("cc")
    source = CHECKOUT / "Sources" / "CMPI" / "autoep_mpi.c"
    (target / MPI_TRANSPORT).unlink(missing_ok=True)
    if compiler is None or not finds_mpi_header(compiler):
        print(
            "autoep: no mpi.h was found, so this installation has no MPI transport (torchrun and"
            " single processes work). For mpirun, install Open MPI's development files"
            " (Debian: libopenmpi-dev) and install autoep again.",
            flush=True,
        )
        return
    command = [compiler, "-std=gnu11", "-O2", "-fPIC", "-shared", f"-I{CHECKOUT / 'include'}"]
    command += [str(source), "-o", str(target / MPI_TRANSPORT)]
    if not compiler.endswith("mpicc"):
        command.append("-lmpi")
    run(command, "the compilation of the MPI transport")


def finds_mpi_header(compiler: str) -> bool:
    """Whether a C compiler finds mpi.h."""
    command = [compiler, "-E", "-x", "c", "-"]
    probe = subprocess.run(command, input=b"#include <mpi.h>\n", capture_output=True, check=False)
    return probe.returncode == 0


class BuildPackage(build_py):
    """Copies the Python files into an empty folder: a stale one would be installed too."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    """Builds the libraries beside the extension, which finds them through its rpath."""

    def run(self) -> None:
        require_checkout()
        in_source = self.inplace or self.editable_mode
        target = HERE / "src" / "autoep" if in_source else Path(self.build_lib) / "autoep"
        target.mkdir(parents=True, exist_ok=True)
        build_engine(target)
        build_mpi_transport(target)
        for extension in self.extensions:
            extension.library_dirs.append(str(target))
        super().run()

    def build_extensions(self) -> None:
        """Links without the run path of this interpreter, which a wheel would carry elsewhere."""
        linker = self.compiler.linker_so
        self.compiler.linker_so = [flag for flag in linker if not flag.startswith("-Wl,-rpath")]
        super().build_extensions()


engine = Extension(
    "autoep._engine",
    sources=sorted(str(p.relative_to(HERE)) for p in (HERE / "extension").glob("*.c")),
    depends=[str(p.relative_to(HERE)) for p in (HERE / "extension").glob("*.h")],
    include_dirs=[str(CHECKOUT / "include")],
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    extra_compile_args=[
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-fvisibility=hidden",
        "-Werror=implicit",
    ],
    libraries=["autoep"],
    extra_link_args=["-Wl,-rpath,$ORIGIN"],
    py_limited_api=True,
)

setup(
    ext_modules=[engine],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
