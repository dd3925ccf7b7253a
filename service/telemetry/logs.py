"""Structured logs: one event a line, for a person on a terminal and as JSON everywhere else."""

import logging
import sys
from typing import Literal, TextIO

import structlog

from service.telemetry.tracebacks import format_traceback

LogFormat = Literal["auto", "console", "json"]


CONTENT = "content"
"""The name, in any line, of what may quote a prompt or an answer."""


def configure_logging(
    level: str, log_format: LogFormat, stream: TextIO = sys.stderr, *, with_content: bool = False
) -> None:
    """Sends structlog's loggers and the standard library's to `stream`, in one form.

    `with_content` writes what may quote a prompt or an answer, which is left out otherwise. Called
    once, by the composition root of each process.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not with_content:
        shared += [_leave_out_content, structlog.processors.ExceptionRenderer(format_traceback)]
    renderers = _renderers(log_format, stream)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    # Libraries are chatty at info (llama.cpp says a hundred lines a load); a logger's own level may
    # be lower, so the handler is what holds them.
    handler.setLevel(threshold if threshold <= logging.DEBUG else max(threshold, logging.WARNING))
    logging.basicConfig(handlers=[handler], level=handler.level, force=True)


def _leave_out_content(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    event.pop(CONTENT, None)
    return event


def _renderers(log_format: LogFormat, stream: TextIO) -> list[structlog.typing.Processor]:
    console = stream.isatty() if log_format == "auto" else log_format == "console"
    if console:
        # Not rich's traceback, which shows local variables: prompts would be among them.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
