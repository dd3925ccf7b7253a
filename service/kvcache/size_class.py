"""Size classes: how many slots of which length a worker reserves."""

import re
from dataclasses import dataclass

from service.errors import SettingsError

_CLASS = re.compile(r"(\d+)x(\d+)")
MAX_SLOTS = 256
"""llama.cpp's LLAMA_MAX_SEQ: sequences in one context."""


@dataclass(frozen=True, slots=True, order=True)
class SizeClass:
    """`num_slots` slots of `slot_len` tokens; ordered by length."""

    slot_len: int
    num_slots: int

    def __str__(self) -> str:
        return f"{self.num_slots}x{self.slot_len}"


def parse_size_classes(text: str) -> tuple[SizeClass, ...]:
    """Read `8x2048,1x8192`; the result is in ascending order of length.

    Raises SettingsError that quotes the part that cannot be read.
    """
    classes: list[SizeClass] = []
    for part in text.split(","):
        match = _CLASS.fullmatch(part.strip())
        if match is None:
            raise SettingsError(f"size class {part.strip()!r} is not SLOTSxTOKENS, as in 8x2048")
        num_slots, slot_len = int(match[1]), int(match[2])
        if not 1 <= num_slots <= MAX_SLOTS:
            raise SettingsError(f"size class {part.strip()!r}: slots must be 1 to {MAX_SLOTS}")
        if slot_len < MIN_SLOT_LEN:
            raise SettingsError(f"size class {part.strip()!r}: at least {MIN_SLOT_LEN} tokens")
        classes.append(SizeClass(slot_len=slot_len, num_slots=num_slots))
    if len({size.slot_len for size in classes}) < len(classes):
        raise SettingsError(f"size classes {text!r}: each length may occur once")
    return tuple(sorted(classes))


MIN_SLOT_LEN = 16
"""Shorter slots hold no chat; tests use them to reach every edge quickly."""
