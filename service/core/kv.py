"""Words for how a context keeps keys and values."""

from typing import Literal

KvType = Literal["f16", "q8_0", "q4_0", "f32", "bf16"]
FlashAttention = Literal["auto", "on", "off"]

CELL_ALIGNMENT = 256
"""llama.cpp rounds the cells of a slot up to this."""
