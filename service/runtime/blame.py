"""Whom to blame for the death of a worker."""

from dataclasses import dataclass

from service.runtime.flight import Flight

MAX_DEATHS = 10
"""Deaths that one request may be present at, proven or not; ends what would never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a worker ended."""

    reason: str
    is_outside: bool
    """Killed by somebody else: SIGKILL that the watchdog did not send. No computation ends so."""
    running: frozenset[int]
    """Sequences of the step it died in, as it wrote them down itself."""


def convict(lost: list[Flight], death: Death) -> list[Flight]:
    """Put a death on the record of those who ran; the ones that must not run again.

    `lost` are all that the worker had. Who ran is a suspect until another worker has got further
    with it. A suspect is tried with nobody else whose innocence is not yet proven, so when the
    worker dies again and it is the only one of these, it is guilty. Others that ran beside it are
    suspects then, no more.
    """
    accused = [flight for flight in lost if flight.sequence_id in death.running]
    if not accused and not death.is_outside:
        accused = lost  # it died before it wrote down whom it began
    for flight in accused:
        flight.num_deaths += 1
    guilty = [flight for flight in accused if flight.num_deaths >= MAX_DEATHS]
    if death.is_outside:
        return guilty
    unproven = [flight for flight in accused if not flight.is_proven]
    if len(unproven) == 1 and unproven[0].is_suspect and unproven[0] not in guilty:
        guilty += unproven
    for flight in accused:
        flight.is_suspect = True
    return guilty
