"""Compiles kernels as the engine does, and launches them: NVRTC and the driver through ctypes."""

from __future__ import annotations

import ctypes
import functools
import site
from collections.abc import Sequence
from pathlib import Path

KERNELS = Path(__file__).parents[4] / "Sources" / "AutoEPCUDA" / "Kernels"


class MissingCompilerError(Exception):
    """NVRTC is not installed."""


@functools.cache
def library() -> ctypes.CDLL:
    """Returns NVRTC, from the Python packages of NVIDIA or from where the loader finds it."""
    for folder in [*site.getsitepackages(), site.getusersitepackages()]:
        for path in sorted(Path(folder).glob("nvidia/*/lib/libnvrtc.so.1[23]")):
            for builtins in path.parent.glob("libnvrtc-builtins.so.1[23]*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
    for name in ("libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise MissingCompilerError("NVRTC is not installed; pip install nvidia-cuda-nvrtc")


@functools.cache
def compile_source(file: str, defines: tuple[str, ...], architecture: str) -> tuple[bytes, str]:
    """Compiles a file of kernels; its includes are read from its folder.

    Returns:
        The image, and the log of compiler and assembler.

    Raises:
        RuntimeError: The compilation failed; the text has the errors.
    """
    nvrtc = library()
    options = [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--ptxas-options=--verbose",
        f"--include-path={KERNELS}",
        *(f"--define-macro={define}" for define in defines),
    ]
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), (KERNELS / file).read_bytes(), file.encode(), 0, None, None
    )
    if status != 0:
        raise RuntimeError(f"nvrtcCreateProgram: {status}")
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    log = _bytes_of(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    text = log.rstrip(b"\0").decode()
    if status != 0:
        raise RuntimeError(f"{file} with {defines} for {architecture}:\n{text}")
    image = _bytes_of(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return image, text


def _bytes_of(program: ctypes.c_void_p, get_size, get) -> bytes:
    size = ctypes.c_size_t()
    get_size(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.raw


class Module:
    """A compiled file of kernels on torch's current device."""

    def __init__(self, file: str, defines: tuple[str, ...]):
        import torch

        torch.cuda.init()
        torch.cuda.current_stream().synchronize()
        major, minor = torch.cuda.get_device_capability()
        architecture = "sm_90a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        image, _ = compile_source(file, defines, architecture)
        self._check("cuModuleLoadData", ctypes.byref(self._module), image)

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: int,
        shared_bytes: int,
        arguments: Sequence[ctypes._SimpleCData],
    ) -> None:
        """Launches a kernel on the current stream and waits for it."""
        import torch

        function = ctypes.c_void_p()
        self._check("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        largest_dynamic_shared = 8
        self._check(
            "cuFuncSetAttribute", function, largest_dynamic_shared, ctypes.c_int(shared_bytes)
        )
        x, y = (*grid, 1)[:2]
        pointers = (ctypes.c_void_p * len(arguments))(
            *(ctypes.addressof(argument) for argument in arguments)
        )
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._check(
            "cuLaunchKernel",
            *(function, x, y, 1, block, 1, 1, shared_bytes, stream, pointers, None),
        )
        torch.cuda.synchronize()

    def _check(self, call: str, *arguments: object) -> None:
        status = getattr(self._driver, call)(*arguments)
        if status != 0:
            raise RuntimeError(f"{call}: CUresult {status}")
