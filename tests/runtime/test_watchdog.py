import asyncio

from service.runtime.watchdog import NUM_LOOKS, Watchdog


class Kennel:
    """A watchdog whose looks the test makes itself."""

    def __init__(self):
        self.num_hangs = 0
        self.dog = Watchdog(3600.0, self._count)

    def _count(self):
        self.num_hangs += 1

    def look(self, times=1):
        for _ in range(times):
            if self.dog._timer is not None:
                self.dog._timer.cancel()
                self.dog._look()


async def test_silence_of_a_busy_worker_is_noticed_once():
    kennel = Kennel()
    kennel.dog.watch()
    kennel.look(NUM_LOOKS)
    assert kennel.num_hangs == 0
    kennel.look(5)
    assert kennel.num_hangs == 1


async def test_a_report_starts_the_count_anew():
    kennel = Kennel()
    kennel.dog.watch()
    for _ in range(3):
        kennel.look(NUM_LOOKS)
        kennel.dog.hear()
    assert kennel.num_hangs == 0
    kennel.dog.rest()


async def test_more_work_for_a_silent_worker_is_no_sign_of_life():
    kennel = Kennel()
    kennel.dog.watch()
    kennel.look(NUM_LOOKS)
    kennel.dog.watch()
    kennel.look()
    assert kennel.num_hangs == 1


async def test_an_idle_worker_may_be_silent():
    kennel = Kennel()
    kennel.dog.watch()
    kennel.look(NUM_LOOKS)
    kennel.dog.rest()
    kennel.look()
    kennel.dog.watch()
    kennel.look(NUM_LOOKS)
    assert kennel.num_hangs == 0
    kennel.dog.rest()


async def test_it_looks_by_itself():
    hung = asyncio.Event()
    Watchdog(0.01, hung.set).watch()
    async with asyncio.timeout(20):
        await hung.wait()
