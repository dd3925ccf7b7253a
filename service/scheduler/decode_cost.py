"""What a step takes that only decodes, learned from the steps of single streams."""

from service.kvcache.costs import Costs

SMOOTHING = 0.05
"""Weight of the latest step."""
SCALE = 8
"""Rows; makes the two terms of the model alike in size, so that both are learned."""
OUTLIER = 1.5
"""A step that takes so many times what it should says something of the machine, not of its rows."""

LEAST_SECONDS = 1e-6
"""No step takes less: costs are divided by, and an engine that pretends may take no time."""


class DecodeCost:
    """A pass and its rows, and a lone row, which other kernels compute.

    Starts with what the warm-up measured. That was with short sequences, and perhaps while others
    used the machine: it is corrected by normalised least mean squares (Nagumo, Noda 1967).
    """

    def __init__(self, costs: Costs) -> None:
        self._pass_seconds = costs.pass_seconds
        self._row_seconds = costs.row_seconds
        self._lone_seconds = costs.lone_seconds

    def seconds(self, num_passes: int, num_rows: int) -> float:
        if num_rows == 1:
            return self._lone_seconds
        return num_passes * self._pass_seconds + num_rows * self._row_seconds

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of one sequence: its last token and guesses behind it."""
        expected = self.seconds(1, num_rows)
        error = min(seconds, OUTLIER * expected) - expected
        if num_rows == 1:
            self._lone_seconds = max(LEAST_SECONDS, self._lone_seconds + SMOOTHING * error)
            return
        size = num_rows / SCALE
        gain = SMOOTHING * error / (1 + size * size)
        self._row_seconds = max(0.0, self._row_seconds + gain * size / SCALE)
        # Several rows take no less than one. Without that, steps of two could teach that a pass is
        # free and each row dear, and no step of more would ever be tried.
        least = max(LEAST_SECONDS, self._lone_seconds - self._row_seconds)
        self._pass_seconds = max(least, self._pass_seconds + gain)
