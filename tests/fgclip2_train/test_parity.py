"""The reference numbers of the official program, where this checkout has them beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fgclip2_train.__main__ import app
from fgclip2_train.parity.features import check_images
from fgclip2_train.parity.golden import Golden
from fgclip2_train.parity.steps import check_edges, check_step

GOLDEN = Path(__file__).parents[3] / "shared/reference/golden/public"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no reference numbers at {GOLDEN}")


@needs_golden
def test_every_quantity_is_within_tolerance():
    result = CliRunner().invoke(app, ["parity", str(GOLDEN)])
    assert result.exit_code == 0, result.output
    assert "all within tolerance" in result.output


def changed(folder: Path, name: str, change) -> Golden:
    """A copy of the reference numbers with one file changed."""
    shutil.copytree(GOLDEN, folder, copy_function=shutil.copy)
    folder.chmod(0o755)
    file = folder / name
    file.chmod(0o644)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return Golden(folder)


@needs_golden
@pytest.mark.parametrize("name", ["hard_C", "delta"])
def test_a_wrong_number_is_found_and_named(name, tmp_path):
    def change(expected):
        expected["threshold_1p7"][name] += 1e-6
        for case in expected["edge_cases"]:
            if case["expected"].get(name) is not None:
                case["expected"][name] += 1e-6

    golden = changed(tmp_path / "golden", "expected.json", change)
    findings = check_step(golden, "threshold_1p7", torch.float64, 1e-9, 1e-8, "step")
    assert [item.name for item in findings if not item.ok] == [name]
    wrong = [item.name for item in check_edges(golden, 1e-9) if not item.ok]
    assert wrong and {item.split()[-1] for item in wrong} == {name}


@needs_golden
def test_small_pictures_are_enlarged_to_the_size_that_a_folder_says(tmp_path):
    golden = changed(tmp_path / "golden", "images.json", lambda images: images.update(box_image_size=400))
    wrong = {item.name.split()[-1] for item in check_images(golden) if not item.ok}
    assert {"digest", "estimate"} <= wrong


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json, weights.safetensors, expected.json"):
        CliRunner().invoke(app, ["parity", str(tmp_path)], catch_exceptions=False)
