import json
import os
from pathlib import Path

import pytest
import yaml

from pipelines.sources import load_source

KIT = Path(__file__).parents[1] / "kit"


@pytest.fixture(scope="session")
def ray_here():
    """One real Ray on this machine for all tests of a process; its workers find the operators of tests/kit."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(KIT), os.environ.get("PYTHONPATH")]))
    import ray

    from pipelines.cluster import connect

    connect(None, cpus=2)
    yield
    ray.shutdown()


@pytest.fixture
def make_recipe(tmp_path, ray_here):
    """A function that writes a recipe over a table of `rows` links and returns its path; nothing is downloaded."""

    def make(stages: dict, rows: int = 20, shard_size: int = 5, name: str = "tiny", **top) -> str:
        table = tmp_path / "table.jsonl"
        table.write_text(
            "".join(json.dumps({"u": f"http://example.org/{i}.jpg", "t": f"a cat {i}"}) + "\n" for i in range(rows))
        )
        columns = {"url": "u", "captions": ["t"]}
        source = {"format": "jsonl", "tables": str(table), "language": "en", "columns": columns}
        (tmp_path / "links.yaml").write_text(yaml.safe_dump(source))
        recipe = {"recipe": name, "sources": [str(tmp_path / "links.yaml")], "shard_size": shard_size, "disk_floor_gb": 0}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**recipe, **top, "stages": stages}, sort_keys=False))
        return str(path)

    return make


@pytest.fixture
def make_source(tmp_path):
    """A function that writes a manifest over files of the test's folder and loads it."""

    def make(**content):
        path = tmp_path / "thing.yaml"
        path.write_text(yaml.safe_dump({"base": str(tmp_path), "language": "en", **content}, allow_unicode=True))
        return load_source(str(path), [])

    return make
