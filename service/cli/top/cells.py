"""Figures as they stand in a table."""

from collections.abc import Sequence

from rich.text import Text

from service.cli.top.troubles import Level, grade

STYLES: dict[Level, str] = {"good": "green", "odd": "yellow", "bad": "bold red"}
NOTHING = "-"
_BAR_LEN = 16
_KIBI = 1024
_FEW = 10
"""Of a unit, fewer have a decimal."""


def bar(shares: Sequence[tuple[float, str]], level: Level) -> Text:
    """Each share in its own sign; what is begun of something shows."""
    drawn = ""
    for share, sign in shares:
        length = max(1, round(share * _BAR_LEN)) if share > 0 else 0
        drawn += sign * min(length, _BAR_LEN - len(drawn))
    return Text.assemble((drawn, STYLES[level]), ("·" * (_BAR_LEN - len(drawn)), "dim"))


def write_seconds(value: float | None, limits: tuple[float, float]) -> Text:
    if value is None:
        return Text(NOTHING, "dim")
    text = f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"
    return Text(text, STYLES[grade(value, limits)])


def write_bytes(count: int) -> str:
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= _KIBI and len(units) > 1:
        size /= _KIBI
        del units[0]
    has_decimal = 0 < size < _FEW and count >= _KIBI
    return f"{size:.1f} {units[0]}" if has_decimal else f"{size:,.0f} {units[0]}"


def alarm(count: int) -> Text:
    return Text(str(count), STYLES["odd"] if count else "dim")
