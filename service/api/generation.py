"""A parsed request and its prompt to what the engine runs; past here nothing can be invalid."""

import msgspec

from service.api.exchange import Exchange
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.validation import UNSUPPORTED_PARAMETER
from service.chat.messages import Conversation
from service.core.request import GenerationRequest, ThinkingBudget
from service.core.sampling import SamplingParams
from service.errors import ContextLengthExceeded, InvalidRequest

_SMALLEST_TOP_P = 1e-9
"""Stands for 0, which keeps the most probable token alone."""
_SEED_MASK = 2**64 - 1
_TIER_PRIORITIES = {"priority": -10, "fast": -10, "flex": 10}
"""Of the tiers that are not the usual one."""


_SEED_STEP = 0xD1B54A32D192ED03
"""Between the seeds of a request's choices: nobody who counts seeds up meets another's choice."""


def build_generations(
    request: ChatCompletionRequest,
    conversation: Conversation,
    prompt: list[int],
    *,
    model: ServedModel,
    exchange: Exchange,
    new_seed: int,
) -> list[GenerationRequest]:
    """One for each choice; the first is what a request for one would be.

    Raises InvalidRequest for token ids that are not in the vocabulary.
    """
    seed = new_seed if request.seed is None else request.seed & _SEED_MASK
    first = GenerationRequest(
        request_id=exchange.request_id,
        prompt=prompt,
        sampling=_choose_sampling(request, model, seed),
        max_tokens=request.token_limit,
        stop=tuple(request.stop or ()),
        tenant=exchange.tenant,
        session=exchange.session_id,
        priority=choose_priority(request, exchange),
        num_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        thinking=_limit_thinking(request, conversation, model),
    )
    return [
        first,
        *(
            msgspec.structs.replace(first, sampling=_reseed(first.sampling, index))
            for index in range(1, request.n or 1)
        ),
    ]


def choose_priority(request: ChatCompletionRequest, exchange: Exchange) -> int:
    """Lower is served first; who made the exchange decides, then the number, then the tier."""
    if exchange.priority is not None:
        return exchange.priority
    if request.priority is not None:
        return request.priority
    return _TIER_PRIORITIES.get(request.service_tier or "default", 0)


def name_tier(request: ChatCompletionRequest, exchange: Exchange) -> str | None:
    """The tier that the request is really served in; None where it does not ask."""
    if request.service_tier is None:
        return None
    priority = choose_priority(request, exchange)
    return "priority" if priority < 0 else "flex" if priority > 0 else "default"


def _reseed(sampling: SamplingParams, index: int) -> SamplingParams:
    return msgspec.structs.replace(sampling, seed=sampling.seed + index * _SEED_STEP & _SEED_MASK)


def check_length(prompt: list[int], max_context_len: int) -> None:
    """Raises ContextLengthExceeded; at least one token must fit behind the prompt."""
    if len(prompt) >= max_context_len:
        raise ContextLengthExceeded(
            f"The context holds {max_context_len} tokens, prompt and answer together, and the "
            f"messages are {len(prompt)} tokens long; shorten them.",
            param="messages",
        )


def _choose_sampling(
    request: ChatCompletionRequest, model: ServedModel, seed: int
) -> SamplingParams:
    """What the request asks for, over what the model's authors recommend."""
    asked = {
        "temperature": request.temperature,
        "top_k": None if request.top_k is None else max(request.top_k, 0),
        "top_p": None if request.top_p is None else max(request.top_p, _SMALLEST_TOP_P),
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "ignore_eos": request.ignore_eos,
        "min_tokens": request.min_tokens,
    }
    return msgspec.structs.replace(
        model.sampling,
        **{name: value for name, value in asked.items() if value is not None},
        seed=seed,
        logit_bias=_read_logit_bias(request.logit_bias or {}, model.vocab.num_tokens),
    )


def _read_logit_bias(biases: dict[str, float], num_tokens: int) -> tuple[tuple[int, float], ...]:
    for name in biases:
        if len(name) > len(str(num_tokens)) or int(name) >= num_tokens:
            raise InvalidRequest(
                f"logit_bias: the vocabulary has no token {name[:20]}; its last one is "
                f"{num_tokens - 1}.",
                param="logit_bias",
            )
    return tuple((int(name), bias) for name, bias in biases.items())


def _limit_thinking(
    request: ChatCompletionRequest, conversation: Conversation, model: ServedModel
) -> ThinkingBudget | None:
    if request.thinking_budget is None or not model.format.thinks(conversation):
        return None
    budget = model.format.thinking_budget(model.vocab, request.thinking_budget)
    if budget is None:
        raise InvalidRequest(
            "thinking_budget: this model has no token that ends a thought.",
            param="thinking_budget",
            code=UNSUPPORTED_PARAMETER,
        )
    return budget
