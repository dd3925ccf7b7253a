"""Where a thought ends, and how it is closed for the model once its budget is spent."""

from service.chat.prompt import Vocabulary, control, tokenize_bare
from service.core.request import ThinkingBudget

_END_THINK = "</think>"


def end_of_thought(vocab: Vocabulary) -> int | None:
    """The token that ends a thought, where the model has one."""
    return vocab.special_id(_END_THINK)


def close_thought(vocab: Vocabulary, max_tokens: int) -> ThinkingBudget | None:
    """None where the model has no token that ends a thought."""
    end_token = end_of_thought(vocab)
    if end_token is None:
        return None
    return ThinkingBudget(
        max_tokens=max_tokens,
        end_token=end_token,
        closing_tokens=tuple(tokenize_bare(vocab, [control(f"\n{_END_THINK}\n")])),
    )
