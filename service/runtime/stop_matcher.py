"""Stop strings, however the tokens fall."""


class StopMatcher:
    """Withholds text that may be the beginning of a stop string until it is known.

    seen so far    … released text | withheld tail, a proper prefix of a stop string
    """

    __slots__ = ("_longest", "_stops", "_withheld")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._withheld: str = ""

    def __bool__(self) -> bool:
        return bool(self._stops)

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may be shown, and whether a stop string ended it (and is cut off)."""
        if not self._stops:
            return text, False
        text = self._withheld + text
        found: list[tuple[int, int]] = [
            (at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0
        ]
        if found:
            # The first to be complete, however the text was split; of two that end together, the
            # longer.
            _, start = min(found)
            self._withheld = ""
            return text[:start], True
        released = len(text) - self._open_len(text)
        self._withheld = text[released:]
        return text[:released], False

    def finish(self) -> str:
        """The tail that no stop string followed."""
        withheld, self._withheld = self._withheld, ""
        return withheld

    def _open_len(self, text: str) -> int:
        """Length of the longest suffix that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            suffix = text[-length:]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0
