"""Run one function over many tasks: here, in processes, or on Ray, with the same results to the last bit.

The number of threads is part of the arithmetic (a sum over two threads has another last bit than a sum over one), so it is the
same for every executor and does not depend on the number of workers. A worker that dies is replaced and its task is
given out again; only results come back, so nothing can be done twice.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, get_args

import torch
from threadpoolctl import threadpool_limits

from lmtrace.errors import ConfigError

logger = logging.getLogger(__name__)

Executor = Literal["serial", "process", "ray"]
Function = Callable[[Any, Any], Any]
"""(shared, task) -> result; importable by name, since other processes run it."""

ATTEMPTS = 3
"""How often a task is given to a worker before it is given up."""


@dataclass(frozen=True, slots=True)
class Died:
    """The result of a task whose workers died every time."""

    attempts: int

    def __str__(self) -> str:
        return (
            f"its worker died {self.attempts} times: out of memory? "
            "(a script that starts workers needs if __name__ == '__main__')"
        )


def check_executor(executor: str) -> None:
    """Raise `ConfigError` for an executor that does not exist."""
    if executor not in get_args(Executor):
        raise ConfigError(f"executor {executor!r} does not exist", f"Choose from: {', '.join(get_args(Executor))}")


def run_tasks(
    function: Function, shared: Any, tasks: Iterable[Any], *, executor: Executor, workers: int | None, threads: int
) -> Iterator[tuple[int, Any]]:
    """Yield (position of the task, its result or `Died`) as they come.

    Parameters
    ----------
    function, shared
        `function(shared, task)` is called; `shared` is sent to every worker once.
    tasks
        Taken one by one as workers become free.
    executor
        "serial": here, one after another; "process": worker processes of this machine; "ray": tasks on the Ray cluster
        that this process is connected to, or a local one.
    workers
        How many at a time; by default one for every `threads` processors, four at most.
    threads
        Threads of every worker, whatever the executor.

    Raises
    ------
    ConfigError
        For an executor that does not exist or is not installed, and for fewer than one worker or thread.
    """
    check_executor(executor)
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}", "Give 1 or more")
    number = workers or max(1, min(4, (os.cpu_count() or 1) // threads))
    if executor == "serial":
        return ((i, limited(threads, function, shared, task)) for i, task in enumerate(tasks))
    pool = _Processes(function, shared, threads) if executor == "process" else _Ray(function, shared, threads, number)
    return _distribute(pool, tasks, number)


def limited(threads: int, function: Function, shared: Any, task: Any) -> Any:
    """Call the function with a number of threads, for torch and for every BLAS that is loaded."""
    import scipy.linalg  # noqa: F401  it brings a BLAS of its own, which can be limited once it is loaded

    before = torch.get_num_threads()
    try:
        with threadpool_limits(threads):
            torch.set_num_threads(threads)
            return function(shared, task)
    finally:
        torch.set_num_threads(before)


def _distribute(pool: _Processes | _Ray, tasks: Iterable[Any], workers: int) -> Iterator[tuple[int, Any]]:
    """Keep `workers` tasks under way; a task whose worker died goes first in the line again."""
    source, again, tries = iter(enumerate(tasks)), deque[tuple[int, Any]](), Counter[int]()
    under_way: dict[Any, tuple[int, Any]] = {}
    try:
        while True:
            while len(under_way) < workers and (job := again.popleft() if again else next(source, None)) is not None:
                under_way[pool.start(job[1])] = job
            if not under_way:
                return
            for handle in pool.wait(list(under_way)):
                i, task = under_way.pop(handle)
                try:
                    result = pool.result(handle)
                except WorkerDiedError:
                    tries[i] += 1
                    logger.warning("a worker died (task %d, attempt %d)", i, tries[i])
                    if tries[i] < ATTEMPTS:
                        again.append((i, task))
                        continue
                    result = Died(tries[i])
                yield i, result
    finally:
        pool.close()


class WorkerDiedError(Exception):
    """The process that worked on a task is gone."""


class _Processes:
    """Processes that are started fresh (`spawn`), since a fork of a process with threads may hang."""

    def __init__(self, function: Function, shared: Any, threads: int) -> None:
        self._arguments = (function, shared, threads)
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[Any, Any] = {}
        self._idle: list[Any] = []

    def start(self, task: Any) -> Any:
        """Hand a task to an idle worker, or to a new one."""
        while self._idle:
            connection = self._idle.pop()
            with contextlib.suppress(OSError):  # it died while it was idle
                connection.send((task,))
                return connection
        connection, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        process.start()
        theirs.close()  # so that the death of the worker ends the pipe
        self._processes[connection] = process
        with contextlib.suppress(OSError):  # it died at once; its result says so
            connection.send((task,))
        return connection

    def wait(self, handles: list[Any]) -> list[Any]:
        return wait(handles)

    def result(self, connection: Any) -> Any:
        try:
            found = connection.recv()
        except (EOFError, OSError):
            self._processes.pop(connection).join()
            connection.close()
            raise WorkerDiedError from None
        self._idle.append(connection)
        return found

    def close(self) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
            process.join()


def _serve(connection: Connection, function: Function, shared: Any, threads: int) -> None:
    """Work until the other end of the pipe closes."""
    with contextlib.suppress(EOFError):
        while True:
            (task,) = connection.recv()
            connection.send(limited(threads, function, shared, task))


class _Ray:
    """Tasks on Ray; a local cluster where none is connected."""

    def __init__(self, function: Function, shared: Any, threads: int, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("the executor ray is not installed", "pip install lmtrace[ray]") from error
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            # As with processes, what this process can import its workers can.
            path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
            ray.init(
                num_cpus=workers * threads, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )  # fmt: skip
        self._function, self._threads = function, threads
        self._shared = ray.put(shared)
        self._remote: Any = ray.remote(num_cpus=threads, max_retries=0)(limited)

    def start(self, task: Any) -> Any:
        return self._remote.remote(self._threads, self._function, self._shared, task)

    def wait(self, handles: list[Any]) -> list[Any]:
        return self._ray.wait(handles, num_returns=1)[0]

    def result(self, handle: Any) -> Any:
        try:
            return self._ray.get(handle)
        except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError):
            raise WorkerDiedError from None

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()
