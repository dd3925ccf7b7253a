"""How much a grammar of a client may cost."""

import msgspec


class GrammarConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_bytes: int = 256 * 1024
    """Longest grammar, with the schemas in it."""
    compile_seconds: float = 1.0
    compile_bytes: int = 64 * 1024 * 1024
    """Memory that compiling one, and computing its first mask, may take."""
    max_compiling: int = 4
    """Compiled at once; more wait."""
