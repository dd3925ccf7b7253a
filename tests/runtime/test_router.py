from service.runtime.router import BLOCK, PrefixMemory, choose_worker, name_blocks


def test_prompts_share_names_as_far_as_they_share_whole_blocks():
    shared = list(range(2 * BLOCK))
    one, other = name_blocks("", [*shared, 1] * 2), name_blocks("", [*shared, 2] * 2)
    assert one[:2] == other[:2]
    assert one[2] != other[2]


def test_equal_prompts_of_two_tenants_share_no_name():
    prompt = list(range(3 * BLOCK))
    assert not set(name_blocks("a", prompt)) & set(name_blocks("b", prompt))


def test_worker_that_had_most_of_the_prompt_gets_it():
    names = name_blocks("", list(range(3 * BLOCK)))
    little, most = PrefixMemory(100), PrefixMemory(100)
    little.add(names[:1])
    most.add(names[:2])
    assert choose_worker(names, [little, most], loads=[0, 3], num_slots=4) == 1


def test_least_loaded_worker_gets_a_new_prompt():
    names = name_blocks("", list(range(BLOCK)))
    assert choose_worker(names, [PrefixMemory(9), PrefixMemory(9)], loads=[2, 1], num_slots=4) == 1


def test_oldest_blocks_are_forgotten_first():
    memory = PrefixMemory(2)
    memory.add([1, 2])
    memory.add([3])
    assert memory.count([1]) == 0
    assert memory.count([2]) == 1
    assert memory.count([3]) == 1


def test_a_session_goes_home_whatever_others_know_of_its_prompt():
    names = name_blocks("", list(range(BLOCK)))
    home, other = PrefixMemory(9), PrefixMemory(9)
    other.add(names)
    assert choose_worker(names, [other, home], loads=[0, 4], num_slots=4, home=1) == 1


def test_a_worker_that_is_busier_by_more_than_its_slots_gets_nobody_home():
    names = name_blocks("", list(range(BLOCK)))
    busy, idle = PrefixMemory(9), PrefixMemory(9)
    busy.add(names)
    assert choose_worker(names, [busy, idle], loads=[5, 0], num_slots=4, home=0) == 1
    assert choose_worker(names, [busy, idle], loads=[5, 0], num_slots=4) == 1
