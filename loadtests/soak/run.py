"""A soak from the first reference to the last sample."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

import httpx

from loadtests.soak.caller import ANSWER_SECONDS, Caller
from loadtests.soak.faults import DEADLY, Faults, Struck, last_death, plan_faults
from loadtests.soak.guest import Guest
from loadtests.soak.ledger import Ledger
from loadtests.soak.load import ask_references, keep_batches, make_guest, visit
from loadtests.soak.samples import Sample, Sampler
from loadtests.soak.site import TENANT_KEYS, WATCH_KEY, Site

QUIET_SECONDS = 60
"""For the service to be idle after the last guest."""

Report = Callable[[Ledger, Sample], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What was seen of a soak."""

    ledger: Ledger
    before: Sample
    samples: list[Sample]
    after: Sample
    struck: list[Struck]
    metrics: Mapping[str, float]
    """After the load."""
    fallen: list[str]
    """Counters that went back."""
    num_damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    seconds: float
    num_guests: int
    sample_seconds: float


async def run_soak(site: Site, plan: Plan, report: Report) -> Course:
    """`report` is told each sample."""
    ledger = Ledger(started=monotonic())
    samples: list[Sample] = []
    async with _http(site) as watch:
        sampler = Sampler(watch, site, key=WATCH_KEY)
        before = await sampler.sample(ledger.elapsed)
        async with _http(site) as http:
            faults, guests = await _prepare(site, plan, ledger, http, sampler)
            ledger.started = monotonic()
            ending = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for guest in guests[1:]:
                    group.create_task(visit(guest, ending))
                group.create_task(keep_batches(guests[0], ending))
                group.create_task(_strike(faults, plan.seconds))
                while ledger.elapsed < plan.seconds:
                    await asyncio.sleep(plan.sample_seconds)
                    samples.append(await sampler.sample(ledger.elapsed))
                    report(ledger, samples[-1])
                ending.set()
        after = await _wait_quiet(sampler, ledger)
    return Course(
        ledger=ledger,
        before=before,
        samples=samples,
        after=after,
        struck=faults.struck,
        metrics=sampler.metrics,
        fallen=sampler.fallen,
        num_damaged=faults.num_damaged,
    )


def _http(site: Site) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncClient(base_url=site.url, timeout=ANSWER_SECONDS, limits=limits)


async def _prepare(
    site: Site, plan: Plan, ledger: Ledger, http: httpx.AsyncClient, sampler: Sampler
) -> tuple[Faults, list[Guest]]:
    """The first guest is the clerk of the batches."""
    chance = random.Random(0)
    red, blue = (Caller(http, ledger, key=key, chance=chance) for key in TENANT_KEYS)
    references = await ask_references(red, site.model)
    guests = [
        make_guest(number, (red, blue), ledger, references, site)
        for number in range(plan.num_guests + 1)
    ]
    faults = Faults(
        site=site, ledger=ledger, caller=red, read_metrics=sampler.read_metrics, chance=chance
    )
    return faults, guests


async def _strike(faults: Faults, seconds: float) -> None:
    """As planned, but for deaths that would come too late.

    A worker is left alone until the service has got over the death before.
    """
    turn = asyncio.Lock()

    async def strike(name: str) -> None:
        if name not in DEADLY:
            await faults.strike(name)
            return
        async with turn:
            if await faults.wait_settled(last_death(seconds)):
                await faults.strike(name)

    async with asyncio.TaskGroup() as group:
        for planned in plan_faults(seconds):
            await asyncio.sleep(max(0.0, planned.at - faults.ledger.elapsed))
            group.create_task(strike(planned.name))


async def _wait_quiet(sampler: Sampler, ledger: Ledger) -> Sample:
    """The first sample without work, or the last before patience ends."""
    until = monotonic() + QUIET_SECONDS
    while True:
        sample = await sampler.sample(ledger.elapsed)
        if sample.num_running + sample.num_waiting == 0 or monotonic() > until:
            return sample
        await asyncio.sleep(0.5)
