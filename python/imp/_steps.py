"""StepLoop: the requests of all threads on one native engine.

The native engine takes calls from one thread at a time. Whoever waits for tokens runs the next step when it gets the
lock, and files the events of everybody's requests; so requests of several threads share batches, and a thread that
finds its events filed runs no step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from . import _core
from .errors import CudaError, EngineClosedError, InternalError, InvalidArgumentError


class StepLoop:
    """Owns the native engine."""

    def __init__(self, core: _core.Engine) -> None:
        """Takes over `core`."""
        self._core: _core.Engine | None = core
        self._lock = threading.Lock()
        self._owner: int | None = None  # thread that is inside exclusive()
        self._waiting: set[int] = set()  # threads that want the lock
        self._filed: dict[int, list[_core.TokenEvent]] = {}  # what nobody has taken, of each request
        self._abandoned: deque[int] = deque()  # cancelled, to be forgotten; append() needs no lock

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core is None

    @property
    def core(self) -> _core.Engine:
        """The native engine, for what any thread may read at any time."""
        if self._core is None:
            raise EngineClosedError("the engine is closed")
        return self._core

    @contextmanager
    def exclusive(self) -> Iterator[_core.Engine]:
        """The native engine, with nobody else in it."""
        me = threading.get_ident()
        if self._owner == me:
            raise InvalidArgumentError("an engine cannot be called from its own progress callback")
        self._waiting.add(me)
        try:
            with self._lock:
                self._waiting.discard(me)
                self._owner = me
                try:
                    yield self.core
                finally:
                    self._owner = None
        finally:
            self._waiting.discard(me)
        if self._waiting:
            time.sleep(5e-5)  # a thread that asks again at once would get the lock again

    def submit(self, prompt: Sequence[int], params: _core.SamplingParams) -> int:
        """Queues a request."""
        with self.exclusive() as core:
            request = core.submit(list(prompt), params)
            self._filed[request] = []
            return request

    def next_events(self, requests: Iterable[int]) -> list[_core.TokenEvent]:
        """New events of these requests, in order; runs at most one step for them, which may bring none."""
        wanted = list(requests)
        with self.exclusive() as core:
            events = self._take(wanted)
            if not events:
                if not core.has_work():
                    raise InternalError(f"requests {wanted} are unfinished, and the engine has nothing to do")
                self._step(core)
                events = self._take(wanted)
            return events

    def forget(self, request: int) -> tuple[_core.RequestTimings, list[list[_core.TokenLogprob]]]:
        """Timings and prompt log-probabilities of a finished request, which the engine then drops."""
        with self.exclusive() as core:
            timings, prompt_logprobs = core.timings(request), core.prompt_logprobs(request)
            core.forget(request)
            self._filed.pop(request, None)
            return timings, prompt_logprobs

    def abandon(self, requests: Iterable[int]) -> None:
        """Cancels requests that nobody waits for any more. Never blocks: the garbage collector may be the caller."""
        core = self._core
        unwanted = list(requests)
        if core is None or not unwanted:
            return
        for request in unwanted:
            core.cancel(request)
            self._abandoned.append(request)
        if self._lock.acquire(blocking=False):
            try:
                self._step(core)
            except CudaError:
                pass  # the next caller gets it too; who leaves a request behind does not wait for an answer
            finally:
                self._lock.release()
        # else: whoever holds the lock runs a step soon, or somebody will for the next request

    def close(self) -> None:
        """Waits for the step that is running and frees the engine."""
        if self._core is None:
            return
        with self.exclusive():
            self._core = None
            self._filed.clear()

    def _take(self, requests: Iterable[int]) -> list[_core.TokenEvent]:
        taken: list[_core.TokenEvent] = []
        for request in requests:
            if events := self._filed[request]:
                self._filed[request] = []
                taken += events
        return taken

    def _step(self, core: _core.Engine) -> None:
        ending = list(self._abandoned)  # cancelled before this step begins, so they end in it
        core.step_into(self._filed)
        for request in ending:
            core.forget(request)
            self._filed.pop(request, None)
            self._abandoned.popleft()
