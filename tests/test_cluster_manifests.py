"""What stands in manifests/cluster: fields and values that KubeRay, Ray Serve LLM and Grafana know, and that fit together.

KubeRay's own schema is no Python package; the names of its fields are held here (ray.io/v1), so that a mistyped one is found.
"""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from pipelines.cli import app
from pipelines.config import load_recipe, recipe_names
from pipelines.metrics import RunFigures
from pipelines.monitor import Limits, Monitor

CLUSTER = Path(__file__).parents[1] / "manifests" / "cluster"
SERVICES = sorted(CLUSTER.glob("rayservice-*.yaml"))
JOB = CLUSTER / "rayjob.yaml"

JOB_FIELDS = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished", "suspend"),
    "shutdownAfterJobFinishes",
}
SERVICE_FIELDS = {"serveConfigV2", "rayClusterConfig", "serveService"}
CLUSTER_FIELDS = {
    *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "suspend"),
    "headServiceAnnotations",
}
AUTOSCALER_FIELDS = {
    *("resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext", "idleTimeoutSeconds"),
    "upscalingMode",
}
HEAD_FIELDS = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKER_FIELDS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template", "scaleStrategy"),
}
POD_FIELDS = {"containers", "initContainers", "volumes", "tolerations", "nodeSelector", "affinity", "serviceAccountName"}
CONTAINER_FIELDS = {"name", "image", "env", "envFrom", "ports", "resources", "volumeMounts", "command", "args"}
AUTOSCALING_FIELDS = {
    *("min_replicas", "max_replicas", "initial_replicas", "target_ongoing_requests", "upscale_delay_s", "downscale_delay_s"),
}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check_cluster(cluster):
    assert set(cluster) <= CLUSTER_FIELDS
    assert cluster["rayVersion"] == pin("ray")
    options = cluster.get("autoscalerOptions", {})
    assert set(options) <= AUTOSCALER_FIELDS
    assert options.get("upscalingMode", "Default") in ("Default", "Aggressive", "Conservative")
    assert isinstance(options.get("idleTimeoutSeconds", 60), int)
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS and {"rayStartParams", "template"} <= set(cluster["headGroupSpec"])
    check_pod(cluster["headGroupSpec"])
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert len(set(names)) == len(names)
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        check_pod(group)


def check_pod(group):
    assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "a map of strings"
    assert set(group["template"]) <= {"metadata", "spec"}
    spec = group["template"]["spec"]
    assert set(spec) <= POD_FIELDS
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        assert set(container) <= CONTAINER_FIELDS and {"name", "image"} <= set(container)
        for kind in ("requests", "limits"):
            for name, amount in container["resources"][kind].items():
                assert isinstance(amount, str) and QUANTITY.fullmatch(amount), f"{name}: {amount}"
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes and mount["mountPath"].startswith("/")
        ports = [port["containerPort"] for port in container.get("ports", [])]
        assert len(set(ports)) == len(ports)
        for variable in container.get("env", []):
            assert isinstance(variable["value"], str)


def pin(package):
    pins = (CLUSTER.parent / "env" / "main.txt").read_text(encoding="utf-8")
    return re.search(rf"^{package}(?:\[[^\]]*\])?==(\S+)", pins, re.M)[1]


def llm_config(path):
    applications = yaml.safe_load(read(path)["spec"]["serveConfigV2"])["applications"]
    assert [application["import_path"] for application in applications] == ["ray.serve.llm:build_openai_app"]
    (config,) = applications[0]["args"]["llm_configs"]
    return config


def test_the_job_has_only_fields_that_kuberay_knows():
    job = read(JOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and set(job) == {
        "apiVersion",
        "kind",
        "metadata",
        "spec",
    }
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"]), "KubeRay allows 47 characters"
    assert set(job["spec"]) <= JOB_FIELDS
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    check_cluster(job["spec"]["rayClusterSpec"])


def test_the_jobs_command_is_one_that_the_command_line_takes():
    job = read(JOB)["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:2] == ["fineloom", "run"]
    import typer

    command = typer.main.get_command(app).commands["run"]
    given = command.make_context("run", words[2:]).params
    assert given["address"] == "auto"
    recipe = load_recipe(given["recipe"], given["overrides"])
    assert recipe.stage("download").resources.workers == (2, 32)
    asked = re.fullmatch(r"http://(.*)-serve-svc:8000/v1", recipe.model.base_url)[1]
    assert asked in [read(path)["metadata"]["name"] for path in SERVICES], "no service of that name is beside it"
    assert recipe.model.name == "qwen2.5-vl"
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]
    port = given["metrics"].rpartition(":")[2]
    assert head["metadata"]["annotations"]["prometheus.io/port"] == port
    assert int(port) in [entry["containerPort"] for entry in head["spec"]["containers"][0]["ports"]]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_service_has_only_known_fields_and_a_node_holds_a_replica(path):
    service = read(path)
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", service["metadata"]["name"])
    assert set(service["spec"]) <= SERVICE_FIELDS
    check_cluster(service["spec"]["rayClusterConfig"])
    config = llm_config(path)
    assert config["model_loading_config"]["model_id"] == "qwen2.5-vl"
    scaling = config["deployment_config"]["autoscaling_config"]
    assert set(scaling) <= AUTOSCALING_FIELDS and 1 <= scaling["min_replicas"] <= scaling["max_replicas"]
    assert scaling["target_ongoing_requests"] <= config["deployment_config"]["max_ongoing_requests"]
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] >= scaling["max_replicas"], "a replica would wait for a node that never comes"
    gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(gpus) == config["engine_kwargs"]["tensor_parallel_size"]


def test_both_models_are_served_and_the_larger_one_in_parallel():
    parallel = {path.stem: llm_config(path)["engine_kwargs"]["tensor_parallel_size"] for path in SERVICES}
    assert parallel == {"rayservice-qwen2.5-vl-7b": 1, "rayservice-qwen2.5-vl-32b-awq": 2}


@pytest.fixture(scope="module")
def serve_models():
    """Ray Serve's and Ray Serve LLM's own models; the latter from where it lies, since ray.serve.llm wants vLLM beside it."""
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.serve.schema import ServeDeploySchema

    return ServeDeploySchema, LLMConfig


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_ray_serve_llm_itself_takes_the_configuration(path, serve_models):
    schema, config = serve_models
    schema.model_validate(yaml.safe_load(read(path)["spec"]["serveConfigV2"]))
    config.model_validate(llm_config(path))
    mistaken = {**llm_config(path), "deployment_config": {"autoscaling_config": {"min_replicas": 3, "max_replicas": 1}}}
    with pytest.raises(ValueError, match="max_replicas"):
        config.model_validate(mistaken)


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_the_engines_options_are_names_that_vllm_knows(path):
    """Read from the source of the vLLM beside this environment: importing it would need its own environment."""
    sources = list(CLUSTER.parents[1].glob(".venv-vllm/lib/python3*/site-packages/vllm/engine/arg_utils.py"))
    if not sources:
        pytest.skip("no .venv-vllm here: make setup")
    tree = ast.parse(sources[0].read_text(encoding="utf-8"))
    (engine,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"]
    known = {node.target.id for node in engine.body if isinstance(node, ast.AnnAssign)}
    assert set(llm_config(path)["engine_kwargs"]) <= known


def metrics_with_labels():
    """Every series of a page with all its labels, from a monitor that has seen one of each."""
    monitor = Monitor(1, Limits({}))
    monitor.begin_flow(["ground"])
    entry = {"rows_in": 2, "rows_out": 1, "rejects": {"a": 1}, "parts": {"b": 1}, "usage": {"requests": 1}, "seconds": 1.0}
    monitor.start("ground", 0)
    monitor.end("ground", 0, entry, True)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunFigures("tiny", monitor.snapshot))
    lines = generate_latest(registry).decode().splitlines()
    found = [re.match(r"(fineloom_\w+)\{(.*)\}", line) for line in lines if not line.startswith("#")]
    return {match[1]: set(re.findall(r"(\w+)=", match[2])) for match in found}


def test_the_dashboard_asks_only_for_figures_and_labels_that_exist_and_for_all_of_them():
    board = json.loads((CLUSTER / "grafana-dashboard.json").read_text(encoding="utf-8"))
    there = metrics_with_labels()
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries.append(board["templating"]["list"][1]["query"]["query"])
    asked = {name for query in queries for name in re.findall(r"\bfineloom_\w+", query)}
    assert asked <= set(there), "no such figure"
    assert set(there) - asked <= {"fineloom_samples_out_total", "fineloom_samples_at_work"}, "a figure that nobody would see"
    for query in queries:
        names = re.findall(r"\bfineloom_\w+", query)
        labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
        labels |= set(re.findall(r"(\w+)=~", query))
        assert labels <= set.intersection(*(there[name] for name in names)), query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in board["panels"]}) == len(places)


def test_the_slurm_script_is_bash_and_says_how_it_is_called(tmp_path):
    script = CLUSTER / "run.slurm"
    bash = shutil.which("bash")
    assert subprocess.run([bash, "-n", script], capture_output=True).returncode == 0
    called = subprocess.run([bash, script], capture_output=True, text=True, cwd=tmp_path)
    assert called.returncode == 2 and "usage: sbatch run.slurm RECIPE ROOT" in called.stderr


NODE = """#!/bin/bash
# What stands for each program of a Slurm node, by its name; `srun` runs its command here.
name=$(basename "$0")
echo "$name $* cpus=${SRUN_CPUS_PER_TASK:-} token=${RAY_AUTH_TOKEN:+given}" >> "$(dirname "$0")/calls"
case $name in
  scontrol) printf 'one\\ntwo\\n' ;;
  hostname) echo 127.0.0.1 ;;
  srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
  ray) [[ $1 == start ]] && exec sleep 60 || true ;;
esac
"""
DRIVER = """#!{python}
import sys, time
try:
    print(*sys.argv[1:], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
    sys.exit(130)
"""


def test_the_slurm_script_starts_ray_on_each_node_and_ends_the_run_as_ctrl_c_does(tmp_path):
    for name in ("scontrol", "hostname", "srun", "ray"):
        (tmp_path / name).write_text(NODE)
    (tmp_path / "fineloom").write_text(DRIVER.format(python=sys.executable))
    for program in list(tmp_path.iterdir()):
        program.chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "[one-two]", "SLURM_CPUS_PER_TASK": "5", "FINELOOM_BIN": str(tmp_path)}
    env = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["bash", CLUSTER / "run.slurm", "finehard", "/shared/runs", "select.keep=width >= 256"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, env=env, cwd=tmp_path, start_new_session=True, **pipe) as script:
        try:
            assert (
                script.stdout.readline()
                == "run finehard select.keep=width >= 256 --root /shared/runs --address 127.0.0.1:6379\n"
            )
            while "--nodelist=two" not in (tmp_path / "calls").read_text():
                time.sleep(0.05)
            script.send_signal(signal.SIGTERM)  # as Slurm does two minutes before the end
            said, _ = script.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
    assert said == "stopped\n" and script.returncode == 143
    steps = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("srun") and " start " in line]
    started = {re.search(r"--nodelist=(\w+) .* start --(head|address)", step).groups() for step in steps}
    assert len(steps) == 2 and started == {("one", "head"), ("two", "address")}
    assert all(step.endswith("cpus=5 token=given") and "--num-cpus=5" in step for step in steps)


def test_every_recipe_has_a_target_that_submits_it():
    def call(*words):
        return subprocess.run(
            ["make", "--assume-old=.venv/ready", *words], cwd=CLUSTER.parents[1], capture_output=True, text=True
        )

    names = recipe_names()
    shown = call("-n", "ROOT=/shared/runs", "SET=select.keep='width >= 256'", *(f"submit-{name}" for name in names)).stdout
    for name in names:
        end = f"-- fineloom run '{name}' select.keep='width >= 256' --root '/shared/runs' --address auto"
        assert f"ray job submit --address http://127.0.0.1:8265 {end}" in shown
    shown = call("-n", "clean", "data", "ROOT=~/my runs").stdout
    home = os.environ["HOME"]
    assert f"rm -rf -- '{home}/my runs'" in shown and f"--root '{home}/my runs'" in shown
    relative = call(f"submit-{names[0]}", "ROOT=runs")
    assert relative.returncode != 0 and "as the cluster's machines see it" in relative.stderr
    assert "fineloom run '/shared/own.yaml'" in call("-n", "submit", "RECIPE=/shared/own.yaml", "ROOT=/shared/runs").stdout
    relative = call("submit", "RECIPE=own.yaml", "ROOT=/shared/runs")
    assert relative.returncode != 0 and "RECIPE=own.yaml: give the file as the cluster's machines see it" in relative.stderr
