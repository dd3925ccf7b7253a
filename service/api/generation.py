"""A parsed request and its prompt to what the engine runs; past here nothing can be invalid."""

import msgspec

from service.api.exchange import Exchange
from service.api.fields import GenerationFields
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
    first = msgspec.structs.replace(
        build_generation(request, prompt, model=model, exchange=exchange, new_seed=new_seed),
        priority=choose_priority(request, exchange, tier=request.service_tier),
        num_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        thinking=_limit_thinking(request, conversation, model),
    )
    return [reseed(first, index) for index in range(request.n or 1)]


def build_generation(
    request: GenerationFields,
    prompt: list[int],
    *,
    model: ServedModel,
    exchange: Exchange,
    new_seed: int,
) -> GenerationRequest:
    """What every request for text says of it. Raises InvalidRequest as above."""
    seed = new_seed if request.seed is None else request.seed & _SEED_MASK
    return GenerationRequest(
        request_id=exchange.request_id,
        prompt=prompt,
        sampling=_choose_sampling(request, model, seed),
        max_tokens=request.token_limit,
        stop=tuple(request.stop or ()),
        tenant=exchange.tenant,
        session=exchange.session_id,
        priority=choose_priority(request, exchange),
        weight=exchange.caller.weight,
        trace=exchange.trace_context,
        timeout_seconds=exchange.seconds_left(),
    )


def choose_priority(
    request: GenerationFields, exchange: Exchange, *, tier: str | None = None
) -> int:
    """Lower is served first; who made the exchange decides, then the number, then the tier.

    None gets a lower one than its caller may have.
    """
    if exchange.priority is not None:
        return exchange.priority
    asked = request.priority
    if asked is None:
        asked = _TIER_PRIORITIES.get(tier or "default", 0)
    return max(asked, exchange.caller.best_priority)


def name_tier(request: ChatCompletionRequest, exchange: Exchange) -> str | None:
    """The tier that the request is really served in; None where it does not ask."""
    if request.service_tier is None:
        return None
    priority = choose_priority(request, exchange, tier=request.service_tier)
    return "priority" if priority < 0 else "flex" if priority > 0 else "default"


def reseed(generation: GenerationRequest, index: int) -> GenerationRequest:
    """The choice with this number; the first is what a request for one would be."""
    sampling = generation.sampling
    seed = sampling.seed + index * _SEED_STEP & _SEED_MASK
    return msgspec.structs.replace(
        generation, sampling=msgspec.structs.replace(sampling, seed=seed)
    )


def check_length(prompt: list[int], max_context_len: int, *, param: str = "messages") -> None:
    """Raises ContextLengthExceeded; at least one token must fit behind the prompt."""
    if len(prompt) >= max_context_len:
        raise ContextLengthExceeded(
            f"The context holds {max_context_len} tokens, prompt and answer together, and the "
            f"{param} have {len(prompt)}; shorten them.",
            param=param,
        )


def _choose_sampling(request: GenerationFields, model: ServedModel, seed: int) -> SamplingParams:
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
