"""The engine computes on the threads that torch has, and survives a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

HEAD = """
    import os, sys
    import torch
    from autoep import functional

    rows, counts = torch.randn(900, 64), torch.tensor([300, 300, 300])
    weights = torch.randn(3, 128, 64)

    def multiply():
        return functional.grouped_gemm(rows, weights, counts)

    def threads():
        return len(os.listdir("/proc/self/task"))
"""


def run(program: str, head: str = HEAD) -> str:
    """Runs a program with 2 threads of torch and of the engine; returns what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "AUTOEP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_engine_starts_no_thread_beside_those_of_torch() -> None:
    program = """
        torch.randn(600, 600) @ torch.randn(600, 600)
        torch.randn(1 << 22).exp_()
        before = threads()
        multiply()
        print(before >= 2, threads() - before, functional.num_threads())
    """
    assert run(program) == "True 0 2"


def test_a_forked_child_computes() -> None:
    program = """
        expected = multiply()
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # those of torch are not there either
            os._exit(0 if torch.equal(multiply(), expected) else 1)
        _, status = os.waitpid(child, 0)
        print(status, torch.equal(multiply(), expected))
    """
    assert run(program) == "0 True"


def test_a_forked_child_computes_on_several_threads() -> None:
    # Many small groups: the threads meet at every lock that they share.
    program = """
        rows, counts = torch.randn(2000, 1), torch.ones(2000, dtype=torch.int64)
        weights = torch.randn(2000, 1, 1)
        expected = multiply()
        for _ in range(2):
            child = os.fork()
            if child == 0:
                torch.set_num_threads(1)
                functional.set_num_threads(3)
                equal = all(torch.equal(multiply(), expected) for _ in range(2000))
                os._exit(0 if equal else 1)
            print(os.waitpid(child, 0)[1])
    """
    assert run(program).split() == ["0", "0"]


def test_a_child_forked_while_another_thread_is_in_the_package_computes() -> None:
    program = """
        import signal
        from autoep.core.host_memory import pool
        from autoep.core import contexts

        weights = torch.randn(3, 1024, 64)
        expected = multiply()
        assert expected.nbytes >= 1 << 20
        with contexts._lock, pool._lock:
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # for a lock that nobody frees
                torch.set_num_threads(1)
                os._exit(0 if torch.equal(multiply(), expected) else 1)
            _, status = os.waitpid(child, 0)
        print(status, torch.equal(multiply(), expected))
    """
    assert run(program) == "0 True"


def test_a_forked_child_may_free_what_it_got_of_its_parent() -> None:
    # Beside threads of its own, and where no runtime lends threads to the parent.
    program = """
        import ctypes, os, pathlib, signal
        import autoep

        library = ctypes.CDLL(str(pathlib.Path(autoep.__file__).with_name("libautoep.so")))

        def create():
            context = ctypes.c_uint64()
            assert library.autoep_context_create(None, ctypes.byref(context), None) == 0
            return context

        parents = create()
        assert len(os.listdir("/proc/self/task")) == 2
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            own = create()
            statuses = [library.autoep_context_free(each, None) for each in (parents, own)]
            os._exit(any(statuses))
        print(os.waitpid(child, 0)[1], library.autoep_context_free(parents, None))
    """
    assert run(program, head="") == "0 0"


def test_threads_of_the_host_compute_at_the_same_time() -> None:
    program = """
        from concurrent.futures import ThreadPoolExecutor

        expected = multiply()
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: multiply(), range(100)))
        print(all(torch.equal(result, expected) for result in results))
    """
    assert run(program) == "True"
