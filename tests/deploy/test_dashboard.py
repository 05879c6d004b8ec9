"""The dashboard as Grafana would take it: what test_prometheus.py does not ask Prometheus about."""

import collections

import yaml

from dashboard import DASHBOARD, DATASOURCES, GRAFANA, ROWS, panels


def test_rows():
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS
    assert all(panel["panels"] == [] and not panel["collapsed"] for panel in DASHBOARD["panels"] if panel["type"] == "row")


def test_panels_have_a_place_of_their_own():
    taken = collections.Counter()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24, panel["title"]
        taken.update((x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"]))
    assert max(taken.values()) == 1
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_say_what_they_show():
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_all_come_from_the_data_source_that_is_provisioned():
    (source,) = DATASOURCES
    expected = {"type": source["type"], "uid": source["uid"]}
    parts = panels() + DASHBOARD["templating"]["list"] + DASHBOARD["annotations"]["list"]
    assert all(part["datasource"] == expected for part in parts)


def test_provider_leads_to_the_dashboard():
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "tauserve.yaml").read_text())["providers"][0]
    assert provider["type"] == "file"
    volumes = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert any(v["target"] == provider["options"]["path"] and v["source"] == "./grafana/dashboards"
               for v in volumes if v["type"] == "bind")
