"""Nobody ever sees another's tokens, however slots and tiers are shared and however tight they are.

Each conversation has a secret of its own. The simulated engine draws by a hash of all that a slot
holds, so a single token of another's in reach, or one of its own missing, changes the answer.
"""

import random

from tests.scheduler.builders import Bench, submit

NUM_SESSIONS = 64
NUM_TURNS = 10_000
MAX_LEN = 192
FIRST_SECRET = 40_000


class Conversation:
    def __init__(self, number: int) -> None:
        self.tenant = "ab"[number % 2]
        self.session = f"s{number // 2}"  # the same names for both tenants
        self.secret = FIRST_SECRET + number
        self.history: list[int] = []
        self.start()

    def start(self) -> None:
        self.history = [*range(10, 30), self.secret, self.secret]

    def ask(self, turn: int, question: list[int]):
        if len(self.history) + len(question) > MAX_LEN - 30:
            self.start()
        self.history += question
        return submit(
            turn,
            self.history,
            max_tokens=6,
            tenant=self.tenant,
            session=self.session,
            num_public=20,
        )


def test_secrets_of_64_conversations_of_two_tenants_stay_theirs_for_ten_thousand_turns():
    chance = random.Random(7)
    bench = Bench("5x64,2x192", host_cache_tokens=1200, disk_cache_tokens=2000)
    conversations = [Conversation(number) for number in range(NUM_SESSIONS)]
    turn = num_cached = 0
    while turn < NUM_TURNS:
        asked = chance.sample(conversations, 8)
        turns = {}
        for conversation in asked:
            question = [chance.randrange(100, 9000) for _ in range(chance.randrange(1, 12))]
            request = conversation.ask(turn, question)
            turns[turn] = conversation, request
            bench.add(request)
            turn += 1
        bench.run()
        bench.plans.clear()
        for number, (conversation, request) in turns.items():
            outcome = bench.outcomes.pop(number)
            assert outcome.tokens == bench.undisturbed(request, MAX_LEN).tokens
            num_cached += outcome.num_cached
            conversation.history += outcome.tokens
        if chance.random() < 0.05:
            forgotten = chance.choice(conversations)
            bench.forget(forgotten.tenant, forgotten.session)
        bench.store.now += 0.01
    counters = bench.store.counters
    assert counters.evictions["host"] > 1000  # it was tight
    assert counters.evictions["disk"] > 1000
    assert min(counters.hits[source] for source in ("host", "disk", "session")) > 100
    assert num_cached > 0


def test_another_tenants_conversation_is_as_unknown_as_one_that_never_was():
    bench = Bench("4x64", host_cache_tokens=500, disk_cache_tokens=500)
    secret = [*range(100, 140)]
    bench.add(submit(1, secret, tenant="a", session="diary"))
    bench.run()
    plans = []
    for guess in (secret, [*range(300, 340)]):
        bench.plans.clear()
        bench.add(submit(2, [*guess, 7], max_tokens=2, tenant="b", session="diary"))
        bench.step()
        assert bench.outcomes[2].num_cached == 0
        plans.append([type(operation) for operation in bench.plans[0].operations])
        bench.scheduler.abort(2)
        bench.forget("b", "diary")
    assert plans[0] == plans[1]
