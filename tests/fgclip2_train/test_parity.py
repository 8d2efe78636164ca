"""The reference numbers of the official program, where this checkout has them beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fgclip2_train.__main__ import app
from fgclip2_train.parity.features import check_images
from fgclip2_train.parity.golden import Golden
from fgclip2_train.parity.steps import check_edges, check_step, compare_norms

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
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
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


@needs_golden
def test_a_wrong_mask_and_a_wrong_sampled_pixel_are_found(tmp_path):
    def change(tensors):
        tensors["batch.pixel_attention_mask"][0, 0] = 0
        tensors["all.row_pixels"][3, 1, 5] += 1e-6

    golden = changed(tmp_path / "golden", "images.safetensors", change)
    wrong = [item.name for item in check_images(golden) if not item.ok]
    assert wrong == ["batch pixel_attention_mask", "all row_pixels"]


@needs_golden
def test_bytes_of_the_batch_that_a_folder_leaves_out_are_made(tmp_path):
    golden = changed(tmp_path / "golden", "images.safetensors", lambda tensors: tensors.pop("batch.pixels_u8"))
    assert torch.equal(golden.batch().patches, Golden(GOLDEN).batch().patches)


@needs_golden
def test_a_set_may_hold_no_hard_group_at_all(tmp_path):
    def change(tensors):
        tensors |= {"hard_nums": tensors["hard_nums"] * 0, "hard_texts": tensors["hard_texts"][:0]}

    batch = changed(tmp_path / "golden", "batch.safetensors", change).batch()
    assert batch.region_valid.any() and not batch.hard_valid.any()


def test_what_is_left_of_a_gradient_that_cancels_is_measured_by_the_whole_one():
    model = torch.nn.ParameterDict({"whole": torch.zeros(1), "left": torch.zeros(1), "none": torch.zeros(1)})
    for name, gradient in {"whole": 4.0, "left": 3e-5 + 1e-7, "none": 2e-9}.items():
        model[name].grad = torch.tensor([gradient])
    findings = compare_norms(model, {"whole": 4.0, "left": 3e-5, "none": 0.0}, 2e-4, "step")
    found = {item.name.split()[1].strip("|"): item.deviation for item in findings}
    assert found == {"whole": 0, "left": pytest.approx(1e-7 / 4e-3, rel=1e-2), "none": pytest.approx(2e-9)}


@needs_golden
def test_what_a_file_lacks_is_named(tmp_path):
    golden = changed(tmp_path / "golden", "expected.json", lambda expected: expected["edge_cases"][0].pop("box_nums"))
    with pytest.raises(ValueError, match=r"golden/expected\.json: no 'box_nums'"):
        check_edges(golden, 1e-9)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json, weights\.safetensors, .*, expected\.json, "):
        CliRunner().invoke(app, ["parity", str(tmp_path)], catch_exceptions=False)
