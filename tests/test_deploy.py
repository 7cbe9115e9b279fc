"""What is shipped beside the package: rules, dashboard, image and compose file fit the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from latenight.cli import main
from latenight.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus/latenight.rules.yml"
RULE_TESTS = DEPLOY / "prometheus/tests/latenight.rules.test.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def run(*command: str | Path) -> str:
    """Run a checker; what it prints is the failure, or returned."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/latenight.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in load(RULES)["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Every PromQL expression of the rules and of the dashboard."""
    board = dashboard()
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    notes = [note["expr"] for note in board["annotations"]["list"]]
    return [rule["expr"] for rule in rules()] + shown + notes


def exported() -> dict[str, str]:
    """Sample name -> attribute of Metrics, for every metric of ours."""
    families = [f for f in Metrics().registry.collect() if f.name.startswith("latenight_")]
    return {
        f.name + end: f.name.removeprefix("latenight_") + ("_total" if f.type == "counter" else "")
        for f in families
        for end in SAMPLES[f.type]
    }


def test_expressions_use_only_metrics_that_we_export() -> None:
    """Every latenight_ name in a rule or on the dashboard is a sample that the daemon exports."""
    used = {name for text in expressions() for name in re.findall(r"\blatenight_\w+", text)}
    assert used <= set(exported())


def test_every_metric_is_looked_at() -> None:
    """Every metric appears in a rule or on the dashboard; one that nobody looks at is deleted."""
    used = {name for text in expressions() for name in re.findall(r"\blatenight_\w+", text)}
    looked_at = {attribute for sample, attribute in exported().items() if sample in used}
    assert looked_at == set(vars(Metrics())) - {"registry"}


def test_promtool_accepts_every_expression(promtool: Path, tmp_path: Path) -> None:
    """Every expression of the rules and of the dashboard is valid PromQL."""
    recorded = [{"record": f"check:{i}", "expr": expr} for i, expr in enumerate(expressions())]
    path = tmp_path / "expressions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": recorded}]}))
    run(promtool, "check", "rules", path)


def test_prometheus_accepts_its_configuration(promtool: Path) -> None:
    """The configuration and the rules that it names are valid."""
    run(promtool, "check", "config", DEPLOY / "prometheus/prometheus.yml")


def test_the_rules_fire_when_they_should_and_only_then(promtool: Path) -> None:
    """Each rule fires on its fault and is silent through a working night with hours without traffic."""
    run(promtool, "test", "rules", RULE_TESTS)


def test_every_rule_is_seen_firing_and_silent() -> None:
    """Each rule has a unit test in which it fires and one in which it does not."""
    checks = [check for test in load(RULE_TESTS)["tests"] for check in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == names
    assert {check["alertname"] for check in checks if not check.get("exp_alerts")} == names


def test_every_rule_says_what_to_do() -> None:
    """Each alert carries a severity, one sentence about the fault and one about the remedy."""
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_dashboard_is_complete_and_wired() -> None:
    """The dashboard has its four rows, unique panel ids, and the data source that is provisioned."""
    board = dashboard()
    panels = board["panels"]
    titles = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert titles == ["Flow", "Latency", "Quality", "Health"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    (source,) = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    used = {panel["datasource"]["uid"] for panel in panels if "datasource" in panel}
    assert used == {source["uid"]}
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_the_compose_file_is_valid() -> None:
    """The compose file keeps the compose specification."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(sys.executable, "-m", "check_jsonschema", *schema, *DEPLOY.glob("compose*.yaml"))


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_make_up_starts_the_image_that_it_builds(target: str) -> None:
    """The scorer is of the image that was built, gets a GPU only with that of the GPU, and sees the bundle's link."""
    commands = run(
        "make",
        "--dry-run",
        "up",
        f"TARGET={target}",
        "BUNDLE=nights/live/",
        "DOCKER=docker",
        "--directory",
        ROOT,
    )
    assert f"--tag latenight:{target} " in commands
    assert f"TARGET={target} " in commands
    assert ("compose.gpu.yaml" in commands) == (target == "gpu")
    assert f"BUNDLES={ROOT}/nights/ BUNDLE=live " in commands
    services = load(DEPLOY / "compose.yaml")["services"]
    assert {services[name]["image"] for name in ("scorer", "topics")} == {"latenight:${TARGET:-cpu}"}
    assert any(volume.startswith("${BUNDLES") for volume in services["scorer"]["volumes"])


def test_what_compose_mounts_from_the_checkout_exists() -> None:
    """Every file or folder of the checkout that a service mounts is there, and is mounted read-only."""
    services = load(DEPLOY / "compose.yaml")["services"]
    mounts = [v for service in services.values() for v in service.get("volumes", ()) if v.startswith("./")]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (DEPLOY / source).exists(), mount
        assert mode == "ro", mount


@pytest.mark.parametrize("name", ["scorer", "topics"])
def test_our_containers_cannot_change_anything(name: str) -> None:
    """Our containers have a read-only root, no capabilities, and only read-only mounts."""
    service = load(DEPLOY / "compose.yaml")["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(volume.endswith(":ro") for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", ["scorer", "topics"])
def test_our_commands_in_compose_exist(name: str, tmp_path: Path) -> None:
    """The commands that compose runs are accepted by the command line, options and variables included."""
    service = load(DEPLOY / "compose.yaml")["services"][name]
    words = [str(tmp_path) if word.startswith(("/", "${")) else word for word in service["command"]]
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(name, words)
    known = {parameter.envvar for parameter in command.params}
    assert set(service["environment"]) <= known


def test_compose_publishes_on_the_loopback_interface_only() -> None:
    """No port of the compose file is reachable from another host: nothing in it asks for a password."""
    services = load(DEPLOY / "compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_metrics_port_is_the_same_everywhere() -> None:
    """Image, health checks and Prometheus agree on the port of the endpoint."""
    (port,) = re.findall(r"LATENIGHT_SERVE_METRICS=0\.0\.0\.0:(\d+)", DOCKERFILE)
    text = DOCKERFILE + (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"127\.0\.0\.1:(\d+)/(?:healthz|readyz)", text)) == {port}
    (job,) = load(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]
    (targets,) = job["dns_sd_configs"]
    assert (targets["names"], str(targets["port"])) == (["scorer"], port)


def test_the_image_runs_as_a_number_without_telemetry_and_without_torch() -> None:
    """Both targets end as a numeric user with telemetry off; no list of libraries holds torch."""
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "ORT_DISABLE_TELEMETRY=1" in DOCKERFILE
    assert re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE) == ["gpu", "cpu"]
    for name in re.findall(r"constraints/\w+\.txt", DOCKERFILE):
        assert not re.search(r"^torch", (ROOT / name).read_text(), re.MULTILINE)


def test_everything_that_the_image_copies_is_sent_to_the_builder() -> None:
    """Each source of a COPY exists and is let through by .dockerignore."""
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in let_through, source
