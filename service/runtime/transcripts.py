"""What was asked and answered, in the log: only where the operator asks for it."""

from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from service.core.request import FinishReason
from service.runtime.flight import Flight


class Transcriber:
    """Called with each request that ended, it writes a line with its text."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], *, max_tokens: int, log: FilteringBoundLogger
    ) -> None:
        """`max_tokens` of a prompt and of an answer are written; longer ones lose their middle."""
        self._token_bytes = token_bytes
        self._max_tokens = max_tokens
        self._log = log

    def __call__(self, flight: Flight, reason: FinishReason, _ended: float) -> None:
        self._log.info(
            "transcript",
            request_id=flight.request.request_id,
            prompt=self._write(flight.request.prompt),
            answer=self._write(flight.output),
            num_prompt_tokens=len(flight.request.prompt),
            num_output_tokens=len(flight.output),
            finish_reason=reason,
        )

    def _write(self, tokens: Sequence[int]) -> str:
        num_left_out = len(tokens) - self._max_tokens
        if num_left_out <= 0:
            return self._read(tokens)
        head = self._max_tokens // 2
        tail = head + num_left_out
        return f"{self._read(tokens[:head])} […{num_left_out} tokens…] {self._read(tokens[tail:])}"

    def _read(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._token_bytes, tokens)).decode(errors="replace")
