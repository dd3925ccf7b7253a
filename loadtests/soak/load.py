"""The load: guests who do one thing after another, and a clerk who runs batches."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

from loadtests.soak import chats, objects, rude
from loadtests.soak.caller import Caller
from loadtests.soak.guest import Guest, References
from loadtests.soak.ledger import Ledger
from loadtests.soak.site import Site

Activity = Callable[[Guest], Awaitable[None]]

ACTIVITIES: dict[Activity, int] = {
    chats.ask: 4,
    chats.ask_twice: 1,
    chats.stream: 4,
    chats.ask_canary: 4,
    chats.converse: 4,
    chats.read_long: 1,
    chats.fill_form: 2,
    chats.call_tool: 2,
    chats.ask_probabilities: 2,
    objects.embed: 2,
    objects.respond: 2,
    objects.respond_unkept: 1,
    rude.leave_at_once: 1,
    rude.leave_prefill: 1,
    rude.leave_decode: 2,
    rude.read_slowly: 1,
    rude.send_nonsense: 3,
}
"""How many of each are in a deck."""
BATCH_PAUSE_SECONDS = 10
_PAUSE_SECONDS = 0.6


def deal(chance: random.Random) -> Iterator[Activity]:
    """Activities for ever; each deck has all of them."""
    while True:
        deck = [activity for activity, count in ACTIVITIES.items() for _ in range(count)]
        chance.shuffle(deck)
        yield from deck


async def ask_references(caller: Caller, model: str) -> References:
    """What the service answers while nobody else is there."""
    texts: dict[str, str] = {}
    for prompt in chats.CANARIES:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": chats.CANARY_TOKENS,
            **chats.canary_fields(),
        }
        [choice] = await caller.chat("canary", body)
        texts[prompt] = choice["message"]["content"]
    body = {"model": model, "input": list(objects.TEXTS)}
    answer = await caller.send("embeddings", "POST", "/v1/embeddings", json=body)
    vectors = [one["embedding"] for one in answer.json()["data"]]
    return References(texts=texts, vectors=dict(zip(objects.TEXTS, vectors, strict=True)))


async def visit(guest: Guest, ending: asyncio.Event) -> None:
    """One guest's whole stay."""
    for activity in deal(guest.chance):
        if ending.is_set():
            return
        await do(guest, activity)
        await asyncio.sleep(guest.chance.uniform(0, 2 * _PAUSE_SECONDS))


async def keep_batches(clerk: Guest, ending: asyncio.Event) -> None:
    """One batch after the other."""
    while not ending.is_set():
        await do(clerk, objects.run_batch)
        await asyncio.sleep(BATCH_PAUSE_SECONDS)


async def do(guest: Guest, activity: Activity) -> None:
    """Whatever goes wrong is noted, and the guest goes on."""
    name = activity.__name__
    try:
        await activity(guest)
    except Exception as error:  # noqa: BLE001 - the top of an activity; any failure is a finding
        guest.ledger.note_wrong(name, f"{type(error).__name__}: {error}")


def make_guest(
    number: int,
    callers: tuple[Caller, Caller],
    ledger: Ledger,
    references: References,
    site: Site,
) -> Guest:
    """`callers` are two tenants, whose guests take turns."""
    own, other = callers if number % 2 == 0 else callers[::-1]
    return Guest(
        name=f"guest-{number}",
        model=site.model,
        address=site.address,
        caller=own,
        stranger=other,
        ledger=ledger,
        references=references,
        chance=random.Random(number),
    )
