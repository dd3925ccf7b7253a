"""Sessions that workers were told to forget, until they say that they have."""

import asyncio
from collections import defaultdict, deque

from service.core.messages import Forgotten
from service.errors import EngineError

_Key = tuple[int, str, str]


class Forgetting:
    """Owns the waiting for `Forgotten`; a worker answers in the order in which it was told."""

    def __init__(self) -> None:
        self._waiting: defaultdict[_Key, deque[asyncio.Future[int]]] = defaultdict(deque)

    def expect(self, worker: int, tenant: str, session: str) -> asyncio.Future[int]:
        """The number of tokens that the worker, which has just been told, is going to free."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[worker, tenant, session].append(future)
        return future

    def answer(self, worker: int, answer: Forgotten) -> None:
        key = (worker, answer.tenant, answer.session)
        if key not in self._waiting:
            return  # nobody waits
        future = self._waiting[key].popleft()
        if not self._waiting[key]:
            del self._waiting[key]
        if not future.done():
            future.set_result(answer.num_tokens)

    def lose(self, worker: int, error: EngineError | None) -> None:
        """It died before it answered: what it had in memory is gone; `error` if it had more."""
        for key in [key for key in self._waiting if key[0] == worker]:
            for future in self._waiting.pop(key):
                if future.done():
                    continue
                if error is None:
                    future.set_result(0)
                else:
                    future.set_exception(error)
