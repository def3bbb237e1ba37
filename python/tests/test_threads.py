"""The engine computes on the threads that torch has, and survives a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from autoep import functional
from autoep.core.cores import HOST_SIZES, core_share

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


@pytest.mark.parametrize(
    ("sharers", "mine", "launchers", "share"),
    [
        (None, 8, 8, 0),
        (1, 8, 8, 0),
        (2, 8, 8, 4),
        (3, 8, 8, 2),
        (16, 8, 8, 1),
        (4, 2, 8, 2),  # bound to cores of its own
        (4, 4, 8, 2),  # bound to cores that it shares with another
    ],
)
def test_processes_of_a_launcher_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, sharers: int | None, mine: int, launchers: int, share: int
) -> None:
    cores = {0: set(range(mine)), os.getppid(): set(range(launchers))}
    monkeypatch.setattr(os, "sched_getaffinity", cores.__getitem__)
    for name in HOST_SIZES:
        monkeypatch.delenv(name, raising=False)
        if sharers is not None:
            with monkeypatch.context() as context:
                context.setenv(name, str(sharers))
                assert core_share() == share
    assert core_share() == 0


@pytest.mark.parametrize(("chosen", "threads"), [(None, 1), ("3", 3)])
def test_the_engine_takes_its_share_without_initialize(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, threads: int
) -> None:
    before = functional.num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0))))
    if chosen is None:
        monkeypatch.delenv("AUTOEP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("AUTOEP_NUM_THREADS", chosen)
    try:
        functional.set_num_threads(0)
        assert functional.num_threads() == threads
    finally:
        functional.set_num_threads(before)


def test_a_small_layer_keeps_the_other_threads_asleep() -> None:
    """They would spin after it, and on a busy machine its caller would wait for them."""
    program = """
        import time
        experts, hidden, width, tokens = 8, 32, 24, 24
        x = torch.randn(tokens, hidden, requires_grad=True)
        idx, weights_TK = torch.randint(experts, (tokens, 2)), torch.rand(tokens, 2)
        gate_up = torch.randn(experts, 2 * width, hidden, requires_grad=True)
        down = torch.randn(experts, hidden, width, requires_grad=True)

        def step():
            functional.experts(x, idx, weights_TK, gate_up, down).sum().backward()

        def others():  # the processor time of all threads but this one
            return time.process_time() - time.thread_time()

        torch.randn(1 << 22).exp_()
        torch.set_num_threads(1)  # the backward's own threads are torch's
        step()
        time.sleep(0.5)
        before = others()
        with torch.autograd.set_multithreading_enabled(False):
            for _ in range(50):
                step()
                time.sleep(0.002)
        print(functional.num_threads(), round((others() - before) * 1e3))
    """
    threads, milliseconds = map(int, run(program).split())
    assert threads == 2
    assert milliseconds < 25, f"{milliseconds} ms of 50 steps"


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
