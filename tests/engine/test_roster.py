import os
import subprocess
import sys

from service.engine.roster import CAPACITY, Roster

WRITE_AND_DIE = """
import os, signal, sys
from service.engine.roster import Roster
Roster(int(sys.argv[1])).write([7, 1 << 40])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_can_be_read():
    roster = Roster.create()
    assert roster.read() == frozenset()
    subprocess.run(
        [sys.executable, "-c", WRITE_AND_DIE, str(roster.descriptor)],
        pass_fds=[roster.descriptor],
        check=False,
    )
    assert roster.read() == {7, 1 << 40}
    roster.close()


def test_each_step_replaces_the_one_before():
    roster = Roster.create()
    roster.write([1, 2, 3])
    roster.write([4])
    assert roster.read() == {4}
    roster.write(list(range(CAPACITY + 5)))
    assert len(roster.read()) == CAPACITY
    roster.close()


def test_closing_gives_the_memory_back():
    roster = Roster.create()
    before = os.fstat(roster.descriptor)
    roster.close()
    again = os.memfd_create("other")
    assert again == roster.descriptor
    assert os.fstat(again).st_ino != before.st_ino
    os.close(again)
