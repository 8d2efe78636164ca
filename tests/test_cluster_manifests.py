"""What stands in manifests/cluster: what the schemas of KubeRay, Kubernetes, Ray Serve LLM and Grafana take, and what fits together."""

import ast
import copy
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
from tests.kit.kuberay import check

CLUSTER = Path(__file__).parents[1] / "manifests" / "cluster"
SERVICES = sorted(CLUSTER.glob("rayservice-*.yaml"))
JOB = CLUSTER / "rayjob.yaml"

NAMES_OF_THE_USERS = {"labels", "annotations", "rayStartParams", "requests", "limits"}
WORDS = {"apiVersion", "kind", "submissionMode", "upscalingMode", "operator", "effect", "medium"}
AMOUNTS = {"cpu", "memory", "nvidia.com/gpu", "sizeLimit"}
REQUIRED = {
    *("apiVersion", "kind", "headGroupSpec", "rayStartParams", "template", "groupName", "minReplicas", "maxReplicas"),
    *("rayClusterSpec", "rayClusterConfig", "containers", "name", "mountPath", "containerPort", "claimName", "spec"),
}
OF_ANOTHER_TYPE = {
    str: (7, True, ["x"], {"x": "y"}),
    int: ("7", 1.5, True, [7]),
    bool: ("true", 1, [True]),
    list: ("x", 7, {"x": "y"}),
    dict: ("x", 7, ["x"]),
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check_cluster(cluster):
    """What no schema says: that the parts fit together, and this project's version of Ray."""
    assert cluster["rayVersion"] == pin("ray")
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            assert {"requests", "limits"} <= set(container["resources"]) and container["image"]
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes and mount["mountPath"].startswith("/")
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            assert len(set(ports.values())) == len(container.get("ports", []))
            assert "metrics" not in ports, "KubeRay gives Ray's own figures a port of this name, unless there is one"


def places(value, at=()):
    """Every key of a mapping and place of a list at any depth: its path and what stands there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key), inner
        yield from places(inner, (*at, key))


def with_change(document, path, change):
    """A copy, with change(mapping or list, key) made at the path."""
    changed = inner = copy.deepcopy(document)
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return changed


def renamed(document, path, name):
    return with_change(document, path, lambda mapping, key: mapping.update({name: mapping.pop(key)}))


def set_to(document, path, value):
    return with_change(document, path, lambda inner, key: inner.__setitem__(key, value))


def without(document, path):
    return with_change(document, path, lambda mapping, key: mapping.pop(key))


def misspelt(document):
    """Copies in which one field's name is another, with the path; names that are the user's own are left out."""
    for path, _ in places(document):
        key = path[-1]
        if isinstance(key, str) and NAMES_OF_THE_USERS.isdisjoint(path[-2:-1]):
            yield path, renamed(document, path, f"{key}s")
            if (snake := re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key)) != key:
                yield path, renamed(document, path, snake)


def needed(path):
    """Whether KubeRay or Kubernetes asks for the field; a port may go without a name."""
    return path == ("metadata",) or (path[-1] in REQUIRED and (path[-3:-2], path[-1]) != (("ports",), "name"))


def taken(manifest):
    try:
        check(manifest)
    except ValueError:
        return False
    return True


def pin(package):
    pins = (CLUSTER.parent / "env" / "main.txt").read_text(encoding="utf-8")
    return re.search(rf"^{package}(?:\[[^\]]*\])?==(\S+)", pins, re.M)[1]


def llm_config(path):
    applications = yaml.safe_load(read(path)["spec"]["serveConfigV2"])["applications"]
    assert [application["import_path"] for application in applications] == ["ray.serve.llm:build_openai_app"]
    (config,) = applications[0]["args"]["llm_configs"]
    return config


@pytest.mark.parametrize("path", [JOB, *SERVICES], ids=lambda path: path.stem)
def test_kuberays_and_kubernetes_schemas_take_the_manifest(path):
    check(read(path))


@pytest.mark.parametrize("path", [JOB, *SERVICES], ids=lambda path: path.stem)
def test_a_mistake_at_any_depth_of_a_manifest_is_found(path):
    shipped = read(path)
    there = list(places(shipped))
    mistaken = list(misspelt(shipped))
    mistaken += [(at, set_to(shipped, at, other)) for at, value in there for other in OF_ANOTHER_TYPE[type(value)]]
    mistaken += [(at, set_to(shipped, at, f"{value}x")) for at, value in there if at[-1] in WORDS]
    mistaken += [(at, set_to(shipped, at, f"{value} B")) for at, value in there if at[-1] in AMOUNTS]
    mistaken += [(at, without(shipped, at)) for at, _ in there if needed(at)]
    assert [at for at, copied in mistaken if taken(copied)] == []


def test_what_schemas_leave_open_and_kuberays_operator_refuses_is_found():
    job = read(JOB)
    group = ("spec", "rayClusterSpec", "workerGroupSpecs", 0)
    assert not taken(set_to(job, ("metadata", "name"), "fineloom_finehard"))
    assert not taken(set_to(job, ("metadata", "name"), "f" * 48)) and taken(set_to(job, ("metadata", "name"), "f" * 47))
    assert not taken(set_to(job, (*group, "minReplicas"), 17))
    assert not taken(set_to(job, (*group, "maxReplicas"), 2**31)) and not taken(set_to(job, (*group, "minReplicas"), -1))
    assert not taken(set_to(job, (*group, "template", "spec", "containers"), []))
    assert not taken(set_to(job, (*group, "template", "spec", "restartPolicy"), "Always"))
    assert not taken(set_to(job, ("spec", "shutdownAfterJobFinishes"), False)), "there is a ttlSecondsAfterFinished"
    assert not taken(set_to(job, ("spec", "submissionMode"), "InteractiveMode")), "there is a backoffLimit"


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
    check_cluster(job["rayClusterSpec"])


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_node_of_a_service_holds_a_replica(path):
    service = read(path)
    check_cluster(service["spec"]["rayClusterConfig"])
    config = llm_config(path)
    assert config["model_loading_config"]["model_id"] == "qwen2.5-vl"
    scaling = config["deployment_config"]["autoscaling_config"]
    assert 1 <= scaling["min_replicas"] <= scaling["max_replicas"]
    assert scaling["target_ongoing_requests"] <= config["deployment_config"]["max_ongoing_requests"]
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] >= scaling["max_replicas"], "a replica would wait for a node that never comes"
    gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(gpus) == config["engine_kwargs"]["tensor_parallel_size"]


def test_both_models_are_served_and_the_larger_one_in_parallel():
    parallel = {path.stem: llm_config(path)["engine_kwargs"]["tensor_parallel_size"] for path in SERVICES}
    assert parallel == {"rayservice-qwen2.5-vl-7b": 1, "rayservice-qwen2.5-vl-32b-awq": 2}


@pytest.fixture(scope="module")
def check_served():
    """Raises ValueError unless Ray Serve's and Ray Serve LLM's own models take a configuration; the latter from where it lies, since
    ray.serve.llm wants vLLM beside it. Serve's models pass over names that they do not know: these are held here."""
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

    def check(configuration):
        ServeDeploySchema.model_validate(configuration)
        for application in configuration["applications"]:
            known(application, ServeApplicationSchema.model_fields)
            known(application["args"], {"llm_configs"})
            for config in application["args"]["llm_configs"]:
                LLMConfig.model_validate(config)
                known(config["deployment_config"], DeploymentSchema.model_fields)
                known(config["deployment_config"]["autoscaling_config"], AutoscalingConfig.model_fields)
                known(config["placement_group_config"], {"bundle_per_worker", "bundles", "strategy"})

    def known(given, names):
        if other := set(given) - set(names):
            raise ValueError(f"unknown: {', '.join(sorted(other))}")

    return check


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_ray_serve_llm_itself_takes_the_configuration(path, check_served):
    configuration = yaml.safe_load(read(path)["spec"]["serveConfigV2"])
    check_served(configuration)
    config = ("applications", 0, "args", "llm_configs", 0)
    with pytest.raises(ValueError, match="max_replicas"):
        check_served(set_to(configuration, (*config, "deployment_config", "autoscaling_config", "min_replicas"), 9))
    for at, copied in misspelt(configuration):
        if at[5:6] != ("engine_kwargs",) and "bundle_per_worker" not in at[:-1]:  # vLLM's names, and those of resources
            with pytest.raises(ValueError):
                check_served(copied)


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
