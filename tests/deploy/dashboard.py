"""The dashboard of deploy/grafana, as Python objects."""

import json

import yaml

from prometheus_rules import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "tauserve.json").read_text())
DATASOURCES = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
ROWS = ["Latency", "Throughput", "Queue", "Cache", "Sparsity", "Errors"]


def panels():
    """Those that are not rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    """[(panel's title and query's letter, expression)], with Grafana's variables as they are when all is chosen."""
    variables = {variable["name"]: variable["allValue"] for variable in DASHBOARD["templating"]["list"]}
    found = []
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m")
            for name, value in variables.items():
                expr = expr.replace(f"${name}", value)
            assert "$" not in expr, expr
            found.append((f"{panel['title']} {target['refId']}", expr))
    return found
