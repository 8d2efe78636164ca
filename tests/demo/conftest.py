from pathlib import Path

import pytest

from demo import evaluation, pictures, tables


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A work folder like the demo's with few scenes: its path, what its tables hold, and the address that links point to."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tables, "SCENES", {"laion": 14, "wukong": 14, "zero": 12, "grit": 12})
    patch.setattr(pictures, "SCENES", tables.SCENES)
    folder: Path = tmp_path_factory.mktemp("demo")
    base = "http://127.0.0.1:18999"
    scenes = pictures.make(folder)
    expected = tables.write(folder, base, pictures.photographs(), scenes)
    evaluation.write_shards(folder / "eval", range(evaluation.EVAL_SEEDS, evaluation.EVAL_SEEDS + 5), shard_size=3)
    yield folder, expected, base
    patch.undo()
