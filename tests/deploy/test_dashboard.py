"""Grafana's dashboard and data source, by themselves."""

import itertools

import yaml

from tests.deploy.observation import GRAFANA, charts, dashboard, panel_queries, unknown_names


def provisioned(kind, name):
    return yaml.safe_load((GRAFANA / "provisioning" / kind / f"{name}.yml").read_text())


def overlap(one, other):
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_panels_ask_for_metrics_that_there_are():
    assert not set().union(*(unknown_names(query) for _, query in panel_queries()))


def test_panels_of_the_service_follow_the_chosen_instance():
    for panel, query in panel_queries():
        if "smolserve:" not in query:
            assert query.count('instance=~"$instance"') == query.count("{"), panel


def test_panels_say_what_they_show_and_in_what_unit():
    for chart in charts():
        assert chart["title"]
        assert chart["description"].endswith(".")
        assert chart["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in chart["targets"])
    titles = [chart["title"] for chart in charts()]
    assert len(set(titles)) == len(titles)


def test_panels_lie_beside_each_other():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not any(overlap(*pair) for pair in itertools.combinations(places, 2))


def test_everything_asks_the_provisioned_data_source():
    [source] = provisioned("datasources", "prometheus")["datasources"]
    board = dashboard()
    askers = [*charts(), *board["templating"]["list"], *board["annotations"]["list"]]
    assert {asker["datasource"]["uid"] for asker in askers} == {source["uid"]}
    assert board["uid"] == "smolserve"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["instance"]
