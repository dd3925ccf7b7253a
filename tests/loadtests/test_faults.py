import pytest

from loadtests.soak.faults import DEADLY, MILD, last_death, plan_faults


@pytest.mark.parametrize("seconds", [180, 600, 3600])
def test_every_kind_of_fault_is_in_a_soak(seconds):
    assert {planned.name for planned in plan_faults(seconds)} == {*MILD, *DEADLY}


@pytest.mark.parametrize("seconds", [180, 3600])
def test_no_worker_dies_in_the_last_part(seconds):
    planned = plan_faults(seconds)
    deaths = [one.at for one in planned if one.name in DEADLY]
    assert max(deaths) <= last_death(seconds) < 0.7 * seconds
    assert max(one.at for one in planned) > last_death(seconds)


def test_faults_come_in_the_order_of_time():
    times = [planned.at for planned in plan_faults(3600)]
    assert times == sorted(times)
    assert len(times) > 100
