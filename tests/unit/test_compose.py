"""What deploys agrees with itself and with the code; Docker is not needed to know it."""

import asyncio
import json
import re
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from models.encoder.artifact import seal
from models.policy import Policy
from models.tiers import Facts, tier
from streams import gateway, health, stages
from streams.cli import app
from streams.clock import EventClock
from streams.metrics import Metrics
from streams.settings import STAGES, Settings, load
from streams.topics import RECORD_RETENTION
from tests import pages
from tests.apache_kafka import VERSION

ROOT = Path(__file__).parents[2]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def yaml(path: str) -> Any:
    return YAML(typ="safe").load(ROOT / path)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml("docker-compose.yml")["services"]


@pytest.fixture(scope="module")
def queries() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/demur.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_it_is_a_compose_file() -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, ROOT / "docker-compose.yml"], check=True, capture_output=True)


def test_every_part_is_there_and_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    assert list(services) == ["kafka", "topics", "model", "worker", "gateway", "feed", "prometheus", "grafana"]
    needs = {
        name: {on: how["condition"].removeprefix("service_") for on, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert needs["topics"] == {"kafka": "healthy"}
    assert needs["worker"] == {"model": "completed_successfully", "topics": "completed_successfully"}
    assert needs["feed"] == needs["gateway"] == {"worker": "healthy"}
    assert all("healthcheck" in services[on] for on in ("kafka", "worker", "gateway", "prometheus"))


def test_only_this_machine_reaches_it(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in services["worker"], "a published port could not be scaled"


def test_commands_and_settings_exist(services: dict[str, Any]) -> None:
    commands = typer.main.get_command(app).commands
    ours = [service for service in services.values() if service["image"].startswith("demur:")]
    assert len(ours) == 5
    for service in ours:
        assert "entrypoint" in service or service["command"][0] in commands
        settings = {name.removeprefix("DEMUR_").lower() for name in service.get("environment", {})}
        assert settings <= set(Settings.model_fields)
        assert service["read_only"] is True
        assert {"mem_limit", "pids_limit"} <= set(service)
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_the_settings_are_taken(name: str, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    assert load().bootstrap == services[name]["environment"]["DEMUR_BOOTSTRAP"]
    assert name == "worker" or gateway._unguarded(load()) is None


def test_a_gateway_may_end_when_all_that_was_asked_is_answered(services: dict[str, Any]) -> None:
    (_, most) = Settings.model_fields["deadline_s"].metadata
    granted = float(services["gateway"]["stop_grace_period"].removesuffix("s"))
    assert most.le + gateway.MARGIN_S < health.SHUTDOWN_S < granted


@pytest.fixture
def certified(tmp_path: Path) -> dict[str, Path]:
    files = {"http_keyfile": tmp_path / "key.pem", "http_certfile": tmp_path / "cert.pem"}
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=demur"]
    make += ["-keyout", str(files["http_keyfile"]), "-out", str(files["http_certfile"])]
    subprocess.run(make, check=True, capture_output=True)
    return files


@pytest.mark.parametrize("secure", [False, True])
async def test_health_is_asked_for_as_it_is_answered(
    services: dict[str, Any], certified: dict[str, Path], *, secure: bool
) -> None:
    files = certified if secure else {}
    script = services["gateway"]["healthcheck"]["test"][-1]
    ready = [True]
    async with health.serve(load(http_port=0, **files), health.Health({"ready": lambda: ready[0]}), Metrics()) as url:
        asks = [sys.executable, "-c", script.replace("127.0.0.1:8321", url.partition("://")[2])]
        for status in (0, 1):
            environment = {"DEMUR_HTTP_CERTFILE": str(files["http_certfile"])} if secure else {}
            child = await asyncio.create_subprocess_exec(*asks, env=environment, stderr=subprocess.DEVNULL)
            assert await child.wait() == status
            ready[0] = False


def test_the_model_is_trained_only_if_it_is_not_there_whole(services: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, line in {"python": f'exec {sys.executable} "$@"', "demur": f'echo "$@" >> {tmp_path}/trained'}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (script,) = services["model"]["command"]
    shell = [*services["model"]["entrypoint"], script.replace("/model", str(tmp_path))]
    weights = tmp_path / "reference/weights"
    weights.parent.mkdir()
    for change, trained in (
        (partial(weights.write_text, "whole"), 1),
        (partial(seal, weights.parent, {}), 1),
        (partial(weights.write_text, "half"), 2),
    ):
        change()
        environment = {"PATH": f"{tmp_path}/bin:/bin:/usr/bin", "PYTHONPATH": str(ROOT)}
        subprocess.run(shell, check=True, env=environment, capture_output=True)
        assert (tmp_path / "trained").read_text().splitlines() == [f"train --out {tmp_path}/reference"] * trained


def test_kafka_is_the_one_that_the_tests_run_on(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{VERSION}"


def test_the_place_of_a_group_is_kept_as_long_as_what_it_reads(services: dict[str, Any]) -> None:
    kept = timedelta(minutes=int(services["kafka"]["environment"]["KAFKA_OFFSETS_RETENTION_MINUTES"]))
    assert kept >= RECORD_RETENTION


def test_prometheus_asks_the_workers_where_they_answer(services: dict[str, Any]) -> None:
    jobs = yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]
    found = {job["job_name"]: job["dns_sd_configs"] for job in jobs}
    names = {job: [name for one in places for name in one["names"]] for job, places in found.items()}
    assert names == {"demur": ["worker"], "demur-gateway": ["gateway"]}, "a gateway is no worker"
    for place in (one for places in found.values() for one in places):
        assert place["port"] == Settings.model_fields["http_port"].default
        assert f":{place['port']}/healthz" in services["worker"]["healthcheck"]["test"][-1]


def test_the_dashboard_queries_metrics_that_exist_and_shows_all_of_them(queries: list[str]) -> None:
    metrics = Metrics()
    exposed = {family.name + end for family in metrics.registry.collect() for end in SUFFIXES.get(family.type, [])}
    asked = set(re.findall(r"\b(?:demur|process)_[a-z_]+", " ".join(queries)))
    assert asked <= exposed
    families = {family.name for family in metrics.registry.collect() if family.name.startswith("demur_")}
    assert {name for name in families if not any(query.startswith(name) for query in asked)} == set()


def test_why_not_green_leaves_out_why_green(queries: list[str]) -> None:
    [asked] = [query for query in queries if "demur_decision_reasons_total" in query]
    level, [reason] = tier(Facts(upper=0.01), Policy())
    assert level == "green"
    assert f'{{reason!="{reason.partition(":")[0]}"}}' in asked


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    (group,) = yaml("deploy/prometheus/alerts.yml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_prometheus_reads_the_alerts(services: dict[str, Any]) -> None:
    (name,) = yaml("deploy/prometheus/prometheus.yml")["rule_files"]
    assert f"./deploy/prometheus/{name}:/etc/prometheus/{name}:ro" in services["prometheus"]["volumes"]


def test_alerts_ask_for_metrics_and_labels_that_exist(alerts: list[dict[str, Any]]) -> None:
    metrics = Metrics()
    exposed = {family.name + end for family in metrics.registry.collect() for end in SUFFIXES.get(family.type, [])}
    told = " ".join(rule["expr"] for rule in alerts)
    assert set(re.findall(r"\bdemur_[a-z_]+", told)) <= exposed
    reasons = {pages.codes(row[0])[0] for row in pages.rows("runbook.md", "reason")}
    asked = {reason for found in re.findall(r'reason=~?"([^"]+)"', told) for reason in found.split("|")}
    assert asked <= reasons
    assert told.count("(") == told.count(")")


def test_a_stage_that_no_worker_runs_is_told_though_gateways_answer(alerts: list[dict[str, Any]]) -> None:
    """Docker's name service forgets a container that has stopped: nothing of it is left that could be 0."""
    (told,) = (rule["expr"] for rule in alerts if rule["alert"] == "DemurWorkerDown")
    asked = re.findall(r'absent\((\w+)\{stage="(\w+)"\}\)', told)
    assert [stage for _, stage in asked] == list(STAGES)
    (metric,) = {name for name, _ in asked}
    gateways, workers = Metrics(), Metrics()
    for stage in STAGES:
        stages._measure(stage, SimpleNamespace(inputs={}, lags=dict, clock=EventClock()), workers)
    samples = [{s.labels["stage"] for s in found(m, metric)} for m in (gateways, workers)]
    assert samples == [set(), set(STAGES)]


def found(metrics: Metrics, name: str) -> list[Any]:
    return [sample for family in metrics.registry.collect() for sample in family.samples if sample.name == name]


def test_what_says_nothing_of_a_response_is_no_acceptance_of_it(queries: list[str]) -> None:
    asked = [re.findall(r"demur_labels_total(\{[^}]*\})?", query) for query in queries]
    assert {which for found in asked for which in found} == {'{verdict!="none"}', '{verdict="rejected"}'}


def test_each_alert_has_its_row_in_the_runbook(alerts: list[dict[str, Any]]) -> None:
    rows = [pages.codes(row[0])[0] for row in pages.rows("runbook.md", "alert")]
    assert rows == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert labels <= {"stage", "code", "kind", "reason"}


def test_grafana_finds_datasource_and_dashboard(services: dict[str, Any], queries: list[str]) -> None:
    (source,) = yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/demur.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml("deploy/grafana/provisioning/dashboards/demur.yml")["providers"]
    mounted = {volume.split(":")[1] for volume in services["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted
    assert 'up{job="demur"}' in " ".join(queries)


def test_the_image_is_built_from_the_lock_and_does_not_run_as_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.bootstrap.lock" in dockerfile
    assert "--constraint requirements.lock" in dockerfile
    assert re.search(r"^USER demur$", dockerfile, re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for line in copied for name in line.split()} <= allowed
