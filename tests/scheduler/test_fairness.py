"""Tenants share a worker by their weights, and none saves up what it did not ask for."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduler.fairness import GENERATED_COST
from tests.scheduler.builders import Bench, submit

NUM_REQUESTS = 40
SLOT_LEN = 64


def prompt(number, length=8):
    return [1000 + number] * length


class Tenants:
    """Sends for tenants, and says who began in which order."""

    def __init__(self, bench):
        self.bench = bench
        self.order: list[str] = []
        self._numbers = itertools.count()
        self._begun: set[int] = set()

    def send(self, tenant, count=1, *, length=8, max_tokens=4, weight=1.0, priority=0):
        for _ in range(count):
            number = next(self._numbers)
            self.bench.add(
                submit(
                    number,
                    prompt(number, length),
                    max_tokens=max_tokens,
                    tenant=tenant,
                    weight=weight,
                    priority=priority,
                )
            )

    def step(self):
        self.bench.step()
        for sequence in self.bench.scheduler.running:
            if sequence.id not in self._begun:
                self._begun.add(sequence.id)
                self.order.append(sequence.tenant)

    def finish(self):
        while self.bench.scheduler.has_work:
            self.step()


def services(bench):
    """What each tenant has had, of those that are remembered."""
    return {
        tenant: account.service
        for level in bench.scheduler._waiting._levels.values()
        for tenant, account in level._accounts.items()
    }


def test_tenant_that_comes_later_is_served_in_turn_with_one_that_sent_many_before():
    tenants = Tenants(Bench("1x64"))
    tenants.send("many", 20)
    tenants.step()
    tenants.send("few", 5)
    tenants.finish()
    assert tenants.order[1:11].count("few") == 5


def test_first_request_of_a_tenant_that_was_idle_is_next():
    tenants = Tenants(Bench("1x64"))
    tenants.send("many", 20)
    for _ in range(30):
        tenants.step()
    num_begun = len(tenants.order)
    tenants.send("new")
    tenants.finish()
    assert tenants.order.index("new") <= num_begun + 1


def test_requests_of_one_tenant_are_served_first_come_first_served():
    bench = Bench("1x64")
    for number in range(6):
        bench.add(submit(number, prompt(number), max_tokens=2))
    ended = []
    while bench.scheduler.has_work:
        ended += [output.sequence_id for output in bench.step() if output.finish_reason]
    assert ended == sorted(ended)


def test_tenants_get_what_their_weights_say():
    tenants = Tenants(Bench("2x64"))
    for tenant, weight in (("light", 1.0), ("heavy", 3.0)):
        tenants.send(tenant, 80, weight=weight)
    while len(tenants.order) < 80:
        tenants.step()
    counts = Counter(tenants.order)
    assert 2.5 <= counts["heavy"] / counts["light"] <= 3.5


def test_long_answers_count_as_much_as_the_tokens_that_they_have():
    """One tenant's answers cost four times the other's, so it gets a quarter as many."""
    tenants = Tenants(Bench("1x64"))
    tenants.send("long", 60, length=2, max_tokens=40)
    tenants.send("short", 60, length=2, max_tokens=10)
    while len(tenants.order) < 60:
        tenants.step()
    counts = Counter(tenants.order)
    assert 3 <= counts["short"] / counts["long"] <= 5


def test_cached_prompt_costs_its_tenant_only_what_was_computed():
    bench = Bench("2x64")
    bench.add(submit(1, prompt(1), max_tokens=50, tenant="stays"))
    had = [0.0]
    for number, tail in ((2, []), (3, [7])):
        bench.add(submit(number, [*prompt(2, 40), *tail], max_tokens=2, tenant="a"))
        bench.step()
        had.append(services(bench)["a"])
        while bench.outcomes[number].finish_reason is None:
            bench.step()
    assert bench.outcomes[3].num_cached == 40
    assert had[1] - had[0] == 40
    assert had[2] - had[1] <= 1 + GENERATED_COST


def test_tenant_that_was_idle_has_saved_nothing_up():
    """It is next, and then takes turns; it does not make up for the time it was away."""
    tenants = Tenants(Bench("1x64"))
    tenants.send("always", 60)
    for _ in range(120):
        tenants.step()
    begun = len(tenants.order)
    tenants.send("back", 30)
    while len(tenants.order) < begun + 12:
        tenants.step()
    assert 5 <= tenants.order[begun:].count("back") <= 7


def test_newcomer_is_even_with_those_who_wait_and_not_with_who_has_had_most():
    tenants = Tenants(Bench("1x64"))
    tenants.send("had", max_tokens=40)
    tenants.step()
    tenants.send("waits", 4)
    for _ in range(20):
        tenants.step()
    tenants.send("new", 2)
    tenants.finish()
    assert tenants.order == ["had", "waits", "new", "waits", "new", "waits", "waits"]


def test_tenant_that_used_an_idle_machine_owes_nothing_for_it():
    tenants = Tenants(Bench("1x64"))
    for _ in range(10):
        tenants.send("alone")
        tenants.finish()
    tenants.order.clear()
    tenants.send("alone", 6)
    tenants.send("other", 6)
    tenants.finish()
    assert tenants.order[:6].count("alone") == 3


def test_what_a_tenant_ran_at_a_lower_priority_is_not_held_against_it():
    tenants = Tenants(Bench("1x64"))
    tenants.send("a", 20, priority=50)
    for _ in range(60):
        tenants.step()
    tenants.order.clear()
    for tenant in ("a", "b"):
        tenants.send(tenant, 6)
    while len(tenants.order) < 7:
        tenants.step()
    assert 3 <= tenants.order.count("a") <= 4


def test_one_that_gave_way_goes_on_before_whoever_has_had_less():
    bench = Bench("1x64")
    bench.add(submit(1, prompt(1, 20), max_tokens=20, tenant="a"))
    for _ in range(8):
        bench.step()
    bench.add(submit(2, prompt(2), max_tokens=2, tenant="b"))
    bench.add(submit(3, prompt(3), max_tokens=2, tenant="c", priority=-5))
    while bench.outcomes[3].finish_reason is None:
        bench.step()
    bench.step()
    assert [sequence.id for sequence in bench.scheduler.running] == [1]


def test_one_that_gave_way_pays_for_its_prompt_once():
    bench = Bench("1x64", host_cache_tokens=0)
    bench.add(submit(1, prompt(1, 40), max_tokens=20, tenant="a"))
    bench.add(submit(2, prompt(2, 40), max_tokens=2, tenant="b"))
    bench.step()
    had = services(bench)["a"]
    bench.add(submit(3, prompt(3), max_tokens=2, tenant="c", priority=-5))
    while bench.outcomes[3].finish_reason is None:
        bench.step()
    bench.step()
    assert bench.scheduler.num_preemptions == 1
    assert services(bench)["a"] == had


def test_tenants_are_forgotten_when_nobody_is_left():
    tenants = Tenants(Bench("2x64"))
    for number in range(50):
        tenants.send(f"t{number}")
    tenants.finish()
    assert tenants.bench.scheduler._waiting._levels == {}


def test_tenants_that_left_are_forgotten_as_soon_as_others_have_had_as_much():
    tenants = Tenants(Bench("1x64"))
    tenants.send("steady", 200)
    for number in range(100):
        tenants.send(f"once{number}")
        tenants.step()
    most = 0
    while len(tenants.order) < 180:
        tenants.step()
        most = max(most, len(services(tenants.bench)))
    assert len(services(tenants.bench)) <= 2
    assert most <= 101


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2 * NUM_REQUESTS, max_size=2 * NUM_REQUESTS),
    outputs=st.lists(st.integers(1, 20), min_size=2 * NUM_REQUESTS, max_size=2 * NUM_REQUESTS),
    weights=st.tuples(st.sampled_from([0.5, 1, 2, 5]), st.sampled_from([0.5, 1, 2, 5])),
    num_slots=st.sampled_from([1, 3]),
)
def test_tenants_who_always_wait_are_never_further_apart_than_what_the_slots_can_hold(
    lengths, outputs, weights, num_slots
):
    bench = Bench(f"{num_slots}x{SLOT_LEN}")
    ids = {0: set(), 1: set()}
    for number, (length, output) in enumerate(zip(lengths, outputs, strict=True)):
        tenant = number % 2
        ids[tenant].add(number)
        bench.add(
            submit(
                number,
                prompt(number, length),
                max_tokens=output,
                tenant=str(tenant),
                weight=weights[tenant],
            )
        )
    bound = num_slots * SLOT_LEN * GENERATED_COST / min(weights)
    queue = bench.scheduler._waiting
    while all(ids[tenant] & queue._places.keys() for tenant in ids):
        had = services(bench)
        assert abs(had["0"] - had["1"]) <= bound
        bench.step()
