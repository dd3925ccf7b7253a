"""Tracebacks that say where and of what type, and not what an exception of others quotes.

A message may repeat what it was raised for, and that may be a prompt: a KeyError, what Pydantic
says. Messages of the operating system and of this service's own failures never do.
"""

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import cast

from service.errors import EngineError, StorageError

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]
_SAFE = (OSError, EngineError, StorageError)


def format_traceback(exc_info: ExceptionInfo) -> str:
    """Of the exception and what it came from, the first cause first."""
    return "\n".join(_format_chain(exc_info[1])).rstrip()


def _format_chain(error: BaseException) -> Iterator[str]:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from _format_chain(cause)
        yield "\nWhile that was handled, or because of it:\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip()
    yield _name(error)
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield "\nOne of the group:\n"
            yield from _format_chain(part)


def _name(error: BaseException) -> str:
    name = type(error).__qualname__
    if isinstance(error, _SAFE):
        return f"{name}: {error}"
    return f"{name} (SMOLSERVE_LOG_PROMPTS=true writes its message, which may quote a prompt)"
