import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from service.runtime.sessions import SessionRegistry


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def build_registry(*, max_sessions=100, ttl_seconds=60.0):
    clock = Clock()
    registry = SessionRegistry(max_sessions=max_sessions, ttl_seconds=ttl_seconds, clock=clock)
    return registry, clock


def use(registry, tenant, name, num_tokens=1):
    session = registry.begin(tenant, name)
    registry.end(session, num_tokens=num_tokens)
    return session


def names(sessions):
    return [session.id for session in sessions]


def test_requests_of_one_name_are_one_session():
    registry, clock = build_registry()
    first = use(registry, "a", "chat", num_tokens=10)
    clock.now += 5
    second = use(registry, "a", "chat", num_tokens=25)
    assert first is second
    assert (first.created, first.last_used) == (1000, 1005)
    assert (first.num_requests, first.num_tokens) == (2, 25)


def test_a_name_is_another_session_for_another_tenant():
    registry, _ = build_registry()
    assert use(registry, "a", "chat") is not use(registry, "b", "chat")
    registry.remove("a", "chat")
    assert registry.get("a", "chat") is None
    assert registry.get("b", "chat") is not None


def test_a_request_that_never_ran_leaves_the_tokens_as_they_were():
    registry, _ = build_registry()
    use(registry, "a", "chat", num_tokens=10)
    registry.end(registry.begin("a", "chat"))
    session = registry.get("a", "chat")
    assert session is not None
    assert session.num_tokens == 10


def test_the_least_recently_used_goes_when_there_are_too_many():
    registry, _ = build_registry(max_sessions=2)
    for name in ("one", "two", "one", "three"):
        use(registry, "", name)
    assert names(registry.list_newest("", limit=9)) == ["three", "one"]


def test_an_unused_session_goes_after_its_time():
    registry, clock = build_registry(ttl_seconds=60)
    use(registry, "", "old")
    clock.now += 59
    use(registry, "", "young")
    clock.now += 1
    assert names(registry.list_newest("", limit=9)) == ["young"]
    assert len(registry) == 1


def test_looking_at_a_session_does_not_keep_it():
    registry, clock = build_registry(ttl_seconds=60)
    use(registry, "", "old")
    clock.now += 59
    assert registry.get("", "old") is not None
    clock.now += 1
    assert registry.get("", "old") is None


def test_a_session_with_a_running_request_is_kept_however_old_and_many():
    registry, clock = build_registry(max_sessions=1, ttl_seconds=60)
    running = registry.begin("", "running")
    clock.now += 600
    use(registry, "", "other")
    assert registry.get("", "running") is running
    registry.end(running, num_tokens=5)
    assert names(registry.list_newest("", limit=9)) == ["running"]


def test_a_removed_session_is_not_brought_back_by_its_running_requests():
    registry, _ = build_registry()
    old = registry.begin("", "chat")
    assert registry.remove("", "chat") is old
    new = registry.begin("", "chat")
    registry.end(old, num_tokens=5)
    assert old.is_removed
    assert registry.get("", "chat") is new
    assert (new.num_running, new.num_requests, new.num_tokens) == (1, 1, 0)


def test_sessions_that_a_worker_finds_on_disk_are_known_with_their_worker():
    registry, _ = build_registry()
    registry.learn("a", "chat", worker=1, num_tokens=100)
    session = registry.get("a", "chat")
    assert session is not None
    assert (session.worker, session.num_tokens, session.num_requests) == (1, 100, 0)


def test_of_two_workers_that_find_a_session_the_one_with_more_of_it_keeps_it():
    registry, _ = build_registry()
    for worker, num_tokens in enumerate((50, 100, 70)):
        registry.learn("", "chat", worker=worker, num_tokens=num_tokens)
    session = registry.get("", "chat")
    assert session is not None
    assert (session.worker, session.num_tokens) == (1, 100)


def test_a_restarted_worker_does_not_take_a_session_that_went_on_elsewhere():
    registry, _ = build_registry()
    use(registry, "", "chat", num_tokens=10).worker = 0
    registry.learn("", "chat", worker=1, num_tokens=100)
    session = registry.get("", "chat")
    assert session is not None
    assert (session.worker, session.num_tokens) == (0, 10)


def test_pages_follow_each_other_without_gap_or_repetition():
    registry, _ = build_registry()
    for number in range(7):
        use(registry, "a", f"s{number}")
        use(registry, "b", f"s{number}")
    use(registry, "a", "s0")  # being used again does not move it
    seen, after = [], None
    while page := names(registry.list_newest("a", limit=3, after=after)):
        seen += page
        after = page[-1]
    assert seen == [f"s{number}" for number in reversed(range(7))]


def test_a_page_behind_an_unknown_session_is_an_error():
    registry, _ = build_registry()
    use(registry, "b", "chat")
    with pytest.raises(KeyError):
        registry.list_newest("a", limit=3, after="chat")


class Registry(RuleBasedStateMachine):
    """Against a model that looks at all sessions at each step."""

    running = Bundle("running")
    keys = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))

    @initialize(max_sessions=st.integers(1, 4))
    def build(self, max_sessions):
        self.max_sessions = max_sessions
        self.registry, self.clock = build_registry(max_sessions=max_sessions, ttl_seconds=10)
        self.uses = {}
        """Key to (last use, order of that use, session), for those that must be there."""
        self.ticks = 0

    def note(self, key, session):
        self.ticks += 1
        self.uses[key] = (self.clock.now, self.ticks, session)

    def settle(self):
        """What the rules drop by now."""
        idle = [(use[:2], key) for key, use in self.uses.items() if not use[2].num_running]
        expired = [key for (used, _), key in idle if used <= self.clock.now - 10]
        for key in expired:
            del self.uses[key]
        left = sorted(item for item in idle if item[1] in self.uses)
        for _, key in left[: max(0, len(self.uses) - self.max_sessions)]:
            del self.uses[key]

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds):
        self.clock.now += seconds
        self.settle()

    @rule(target=running, key=keys)
    def begin(self, key):
        session = self.registry.begin(*key)
        assert key not in self.uses or self.uses[key][2] is session
        self.note(key, session)
        self.settle()
        return session

    @rule(session=consumes(running), num_tokens=st.none() | st.integers(1, 9))
    def end(self, session, num_tokens):
        self.registry.end(session, num_tokens=num_tokens)
        key = (session.tenant, session.id)
        if key in self.uses and self.uses[key][2] is session:
            self.note(key, session)
        self.settle()

    @rule(key=keys, worker=st.integers(0, 1), num_tokens=st.integers(1, 9))
    def learn(self, key, worker, num_tokens):
        self.registry.learn(*key, worker=worker, num_tokens=num_tokens)
        if key not in self.uses:
            session = self.registry.get(*key)
            if session is None:  # all others run, and there is no room
                return
            self.note(key, session)
        self.settle()

    @rule(key=keys)
    def remove(self, key):
        removed = self.registry.remove(*key)
        expected = self.uses.pop(key, None)
        assert removed is (expected[2] if expected else None)

    @invariant()
    def holds_exactly_what_it_should(self):
        if not hasattr(self, "registry"):
            return
        found = {
            (tenant, session.id): session
            for tenant in "ab"
            for session in self.registry.list_newest(tenant, limit=99)
        }
        assert found == {key: session for key, (_, _, session) in self.uses.items()}
        assert len(self.registry) == len(found)
        num_running = sum(session.num_running > 0 for session in found.values())
        assert len(found) <= max(self.max_sessions, num_running)


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
