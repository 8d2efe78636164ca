"""The reference numbers of the official program, where this checkout has them beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fgclip2_train.__main__ import app
from fgclip2_train.parity.golden import Golden
from fgclip2_train.parity.steps import check_step

GOLDEN = Path(__file__).parents[3] / "shared/reference/golden/public"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference numbers at {GOLDEN}")


@needs_golden
def test_every_quantity_is_within_tolerance():
    result = CliRunner().invoke(app, ["parity", str(GOLDEN)])
    assert result.exit_code == 0, result.output
    assert "all within tolerance" in result.output


@needs_golden
def test_a_wrong_number_is_found_and_named(tmp_path):
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder, copy_function=shutil.copy)
    folder.chmod(0o755)
    file = folder / "expected.json"
    file.chmod(0o644)
    expected = json.loads(file.read_text())
    expected["threshold_1p7"]["hard_C"] += 1e-6
    file.write_text(json.dumps(expected))
    findings = check_step(Golden(folder), "threshold_1p7", torch.float64, 1e-9, 1e-8, "step")
    assert [item.name for item in findings if not item.ok] == ["hard_C"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json, weights.safetensors, expected.json"):
        CliRunner().invoke(app, ["parity", str(tmp_path)], catch_exceptions=False)
