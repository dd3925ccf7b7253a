"""Whose computed tokens a request may start from."""

from collections.abc import Iterable, Sequence


class Sharing:
    """Every request passes here on its way to a worker, so no endpoint can forget who it is for.

    Tenants share nothing but the public prefixes, unless sharing is global.
    """

    def __init__(
        self, *, is_global: bool = False, public_prefixes: Iterable[Sequence[int]] = ()
    ) -> None:
        """`public_prefixes` are the first tokens of prompts that the operator declares public."""
        self._is_global = is_global
        self._prefixes = sorted(map(list, public_prefixes), key=len, reverse=True)

    def label(self, tenant: str) -> str:
        """What a worker keeps a tenant's tokens under; one for everybody if sharing is global."""
        return "" if self._is_global else tenant

    def count_public(self, prompt: list[int]) -> int:
        """How long the longest public prefix is that the prompt starts with; 0 without one."""
        return next(
            (len(prefix) for prefix in self._prefixes if prompt[: len(prefix)] == prefix), 0
        )
