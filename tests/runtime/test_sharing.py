from service.runtime.sharing import Sharing


def test_each_tenant_shares_with_itself():
    sharing = Sharing()
    assert sharing.label("a") == "a"
    assert sharing.label("b") == "b"


def test_all_share_under_one_label_when_sharing_is_global():
    sharing = Sharing(is_global=True)
    assert sharing.label("a") == sharing.label("b")


def test_the_longest_public_prefix_counts():
    sharing = Sharing(public_prefixes=[[1, 2], [1, 2, 3, 4], [7]])
    assert sharing.count_public([1, 2, 3, 4, 5]) == 4
    assert sharing.count_public([1, 2, 3, 9]) == 2
    assert sharing.count_public([7]) == 1


def test_a_prompt_that_only_resembles_a_public_one_has_nothing_public():
    sharing = Sharing(public_prefixes=[[1, 2, 3]])
    assert sharing.count_public([1, 2]) == 0
    assert sharing.count_public([0, 1, 2, 3]) == 0
    assert Sharing().count_public([1, 2, 3]) == 0
