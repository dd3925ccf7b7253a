"""What computing and copying take on this machine, in seconds; learned from the steps."""

from dataclasses import dataclass

from service.core.plan import CopyTime

SMOOTHING = 0.2
"""Weight of the latest observation."""
MIN_COPIED = 32
"""Tokens. The time of a shorter copy is mostly its fixed part and says little about a long one."""


@dataclass(slots=True, kw_only=True)
class Costs:
    """Starts with the ratios measured on SmolLM2-135M; a warm-up and every step correct them."""

    pass_seconds: float = 10e-3
    """A forward pass, whatever number of rows it has; one of several rows."""
    row_seconds: float = 2e-3
    """A decoding row in such a pass."""
    lone_seconds: float = 12e-3
    """A pass of one row, which other kernels compute: on CPUs it takes less than the sum."""
    prefill_seconds: float = 1e-3
    """A prompt token."""
    save_seconds: float = 1e-3 / 64
    """A token's cells out of a slot."""
    restore_seconds: float = 1e-3 / 64
    """A token's cells into a slot."""
    load_seconds: float = 1e-3 / 16
    """A token's cells from disk into host memory."""

    def observe_copy(self, copy: CopyTime) -> None:
        if copy.num_tokens < MIN_COPIED:
            return
        seconds = copy.seconds / copy.num_tokens
        if copy.kind == "save":
            self.save_seconds = _follow(self.save_seconds, seconds)
        else:
            self.restore_seconds = _follow(self.restore_seconds, seconds)

    def observe_load(self, num_tokens: float, seconds: float) -> None:
        if num_tokens >= MIN_COPIED:
            self.load_seconds = _follow(self.load_seconds, seconds / num_tokens)

    def bridge(self, num_idle: int) -> float:
        """What a gap of idle slots between running ones adds to each step.

        Either filler rows bridge it, or the step takes a pass more; the cheaper one.
        """
        return min(num_idle * self.row_seconds, self.pass_seconds)

    def prefers_filling(self, num_idle: int) -> bool:
        """Whether filler rows in so many idle slots cost less than one more pass."""
        return num_idle * self.row_seconds < self.pass_seconds


def _follow(old: float, new: float) -> float:
    return old + SMOOTHING * (new - old)
