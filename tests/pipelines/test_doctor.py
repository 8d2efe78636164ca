import json

import pytest
from in_process import ModelServer
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import load_recipe
from pipelines.doctor import Check, examine


def look(root, recipe=None, server=None, ray=False) -> dict[str, Check]:
    return {check.name: check for check in examine(root, recipe, server, ray)}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """All checks but Ray's, with a server that serves one model."""
    with ModelServer(lambda _: "") as server:
        root = tmp_path_factory.mktemp("doctor") / "a" / "b"
        yield look(root, server=server.url), root, server


def test_what_this_environment_has_is_ok_and_nothing_is_left_behind(here):
    checks, root, server = here
    for name in ("Python", "packages", "root", "English", "Chinese", "model server"):
        assert checks[name].state == "ok", checks[name]
    assert checks["model server"].found == f"{server.url} serves canned"
    assert not root.parent.exists(), "folders that were made for the probe are gone"


def test_a_check_that_is_not_ok_says_what_to_do(here):
    assert all(check.do for check in here[0].values() if check.state != "ok")


def test_a_root_without_rights_names_the_step(tmp_path):
    check = look("/proc/nothing")["root"]
    assert check.state == "fail" and "make the folder" in check.found and "--root" in check.do
    assert look(tmp_path)["root"].state == "ok" and not list(tmp_path.iterdir())


def test_a_store_that_is_not_there_is_a_failed_check_and_not_a_traceback(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    check = look("s3://doctor-nobucket/x")["root"]
    assert check.state == "fail" and "s3://doctor-nobucket/x" in check.found and "conditional" in check.do


def test_a_recipe_makes_its_server_a_must(here, tmp_path):
    _, _, server = here
    recipe = load_recipe("lit_cn", ["model.base_url=" + server.url])
    check = look(tmp_path, recipe)["model server"]
    assert check.state == "fail" and check.found.endswith(f"serves canned, not {recipe.model.name}")
    away = look(tmp_path, load_recipe("lit_cn", ["model.base_url=http://127.0.0.1:9/v1"]))["model server"]
    assert away.state == "fail" and "fineloom serve start" in away.do
    assert (
        look(tmp_path, load_recipe("lit_cn", [f"model.base_url={server.url}", "model.name=canned"]))["model server"].state
        == "ok"
    )


def test_a_recipes_manifests_and_tables_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("FINELOOM_DATA", str(tmp_path))
    recipe = load_recipe("docci_cn")
    missing = look(tmp_path, recipe)["sources"]
    assert missing.state == "fail" and "docci: tables: nothing matches" in missing.found and "mend the manifest" in missing.do
    (tmp_path / "docci").mkdir()
    (tmp_path / "docci" / "docci_descriptions.jsonlines").touch()
    assert look(tmp_path, recipe)["sources"] == Check("sources", "ok", "docci 1 table")
    assert "sources" not in look(tmp_path)


def test_without_recipe_a_missing_server_is_a_warning(tmp_path, monkeypatch):
    done = CliRunner().invoke(app, ["doctor", "--root", "/proc/nothing", "--no-ray", "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and told["ok"] is False
    assert {check["name"] for check in told["checks"]} >= {"Python", "GPU", "disk", "root", "model server"}
    assert {check["state"] for check in told["checks"]} <= {"ok", "warn", "fail"}


def test_ray_is_started_for_a_moment(tmp_path):
    assert look(tmp_path, ray=True)["Ray"].state == "ok"
