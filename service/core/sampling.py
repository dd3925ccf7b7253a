"""How a token is drawn from logits; see `service.engine.sampling` for the draw itself."""

import msgspec


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural logarithms of probabilities at one position, before any cut of the distribution."""

    chosen: float
    """Of the token that was drawn."""
    top: list[tuple[int, float]]
    """(token id, logprob) of the most probable ones, best first."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """Valid by construction at the edge: ranges are checked in `service.api`, never again.

    Applied in this order: repetition, presence and frequency penalties, `logit_bias`, the mask of
    end-of-generation tokens (`ignore_eos`, `min_tokens`), temperature, `top_k`, `top_p`, `min_p`.
    Tokens exactly as probable as the last one that a cut keeps are kept as well.
    """

    temperature: float = 1.0
    """0 is greedy; penalties and biases still apply."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens whose mass reaches top_p."""
    min_p: float = 0.0
    """Drop tokens less probable than min_p times the most probable one."""
    seed: int = 0
    """With the position it determines the draw's random number; 64 bits, non-negative."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence from the logit of each token already generated."""
    repetition_penalty: float = 1.0
    """Divides positive, multiplies negative logits of tokens in the prompt or output (CTRL)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias added to its logit)."""
    ignore_eos: bool = False
    """Never draw an end-of-generation token."""
    min_tokens: int = 0
    """No end-of-generation token before this many tokens have been generated."""
