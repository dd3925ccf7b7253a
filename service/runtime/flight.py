"""A request between admission and its end, whatever becomes of the workers it is in."""

from dataclasses import dataclass, field
from typing import NamedTuple

from service.core.messages import Submit
from service.core.plan import Tokens, make_tokens
from service.core.request import GenerationRequest
from service.runtime.sessions import Session
from service.runtime.stream import OutputStream

PROOF_TOKENS = 2
"""New tokens after which a request did not die where it died before: one that its prompt's
computation gave, and one of a decoding step, which runs other code."""


class Resubmission(NamedTuple):
    """It was sent to a worker again, after another one died."""

    time: float
    worker: int
    num_generated: int


@dataclass(slots=True, kw_only=True)
class Flight:
    """Times are of the pool's clock."""

    sequence_id: int
    request: GenerationRequest
    stream: OutputStream
    submitted: float
    share: str
    """The label that its tokens are shared under."""
    num_public: int = 0
    """Leading prompt tokens that all tenants share."""
    session: Session | None = None
    began: float = 0.0
    """When the step began that ran it first."""
    first_token: float = 0.0
    last_token: float = 0.0
    worker: int | None = None
    """None while it waits for one."""
    num_placements: int = 0
    resubmissions: tuple[Resubmission, ...] = ()
    output: Tokens = field(default_factory=make_tokens)
    is_running: bool = False
    """Whether its present worker has begun it."""
    num_new: int = 0
    """Tokens that its present worker gave."""
    num_deaths: int = 0
    """Workers that died while they ran it."""
    is_suspect: bool = False
    """Whether it may be why the last of them died."""

    @property
    def was_interrupted(self) -> bool:
        """Whether its reader has had something of it and waits for the rest."""
        return self.stream.stage != "queued"

    @property
    def is_proven(self) -> bool:
        """Whether its present worker computes it without harm."""
        return self.num_new >= PROOF_TOKENS

    @property
    def prompt(self) -> list[int]:
        """What a worker starts from: the request's prompt and what it was already answered."""
        return [*self.request.prompt, *self.output]

    def enter(self, worker: int, now: float) -> Submit:
        """Be a worker's from now on; what it is told."""
        if self.num_placements:
            self.resubmissions += (Resubmission(now, worker, len(self.output)),)
        self.worker = worker
        self.num_placements += 1
        request = self.request
        return Submit(
            sequence_id=self.sequence_id,
            prompt=self.prompt,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            tenant=request.tenant,
            session=request.session,
            share=self.share,
            num_public=self.num_public,
            priority=request.priority,
            num_logprobs=request.num_logprobs,
            constraint=request.constraint,
            thinking=request.thinking,
            prediction=request.prediction,
            num_generated=len(self.output),
        )

    def take(self, token_ids: list[int]) -> None:
        """Its worker reported it, with new tokens or without."""
        self.is_running = True
        self.output.extend(token_ids)
        self.num_new += len(token_ids)
        if self.is_proven:
            self.is_suspect = False

    def lose_worker(self) -> None:
        self.worker = None
        self.is_running = False
        self.num_new = 0
