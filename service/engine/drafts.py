"""Which draws behind guesses count."""

from collections.abc import Iterable, Sequence


def follow(drawn: Sequence[int], drafts: Iterable[int]) -> list[int]:
    """What was drawn behind `drawn[0]`, as far as it was drawn from a right past.

    `drawn[i]` was drawn behind the first i of `drafts`, so it counts if these were what was drawn.
    A draw is a function of its logits and its position: the same tokens come out as one by one.
    """
    followers: list[int] = []
    for index, draft in enumerate(drafts):
        if draft != drawn[index]:
            break
        followers.append(drawn[index + 1])
    return followers
