"""The reference numbers of the official program, where this checkout has them beside it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing import ProcessRaisedException
from typer.testing import CliRunner

from fgclip2_train.cli import app
from fgclip2_train.parity.features import check_images, check_initialisation
from fgclip2_train.parity.golden import Finding, Golden
from fgclip2_train.parity.run import FILES, check_folder
from fgclip2_train.parity.steps import check_edges, check_step, check_synthetic, check_two_ranks, compare_norms
from fgclip2_train.parity.unknown import not_compared

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


@needs_golden
@pytest.mark.parametrize("name", ["total", "fgv", "hard_G", "delta"])
@pytest.mark.parametrize("value", [None, "2.5"])
def test_a_number_of_what_the_step_holds_may_not_be_left_out(name, value, tmp_path):
    golden = changed(tmp_path / "golden", "expected.json", lambda expected: expected["threshold_0"].update({name: value}))
    with pytest.raises(ValueError, match=rf"expected\.json: '{name}' is a number, not {value!r}"):
        check_step(golden, "threshold_0", torch.float64, 1e-9, 1e-8, "step")


@needs_golden
@pytest.mark.parametrize(
    ("file", "name", "check"),
    [
        ("images.json", "groups", check_images),
        ("expected.json", "edge_cases", lambda golden: check_edges(golden, 1e-9)),
        ("expected.json", "synthetic", lambda golden: check_synthetic(golden, 1e-9)),
        ("expected.json", "two_rank", lambda golden: check_two_ranks(golden, 1e-9, 1e-8)),
    ],
)
def test_nothing_passes_for_having_no_cases(file, name, check, tmp_path):
    def change(content):
        content[name] = type(content[name])()

    golden = changed(tmp_path / "golden", file, change)
    with pytest.raises(ValueError, match=rf"{file}: no case under '{name}'"):
        check(golden)


@needs_golden
def test_a_folder_without_a_step_is_refused(tmp_path):
    def change(expected):
        del expected["threshold_0"], expected["threshold_1p7"]

    with pytest.raises(ValueError, match=r"expected\.json: no step in it"):
        check_folder(changed(tmp_path / "golden", "expected.json", change).folder)


@needs_golden
def test_a_weight_that_a_folder_leaves_out_is_not_the_released_one(tmp_path):
    golden = changed(tmp_path / "golden", "config.json", lambda config: config["loss_weights"].pop("hard_A"))
    with pytest.raises(ValueError, match=r"config\.json: no 'hard_A'"):
        _ = golden.settings


@needs_golden
def test_what_no_check_knows_is_listed(tmp_path):
    def change(expected):
        expected["four_rank"] = {}
        expected["threshold_0"] |= {"L_new": 0.5, "note": "a remark"}
        expected["threshold_0"]["grad_norms"]["new.weight"] = 1.0
        expected["edge_cases"][1]["expected"]["L_new"] = 0.5
        expected["two_rank"]["all_terms"]["per_rank"][1]["L_new"] = 0.5

    golden = changed(tmp_path / "golden", "expected.json", change)
    (golden.folder / "stage1.safetensors").touch()
    seen = [Finding("", name, 0.0, 0.0) for name in golden.tensors("expected") if name != "dense.3"]
    assert not_compared(golden.folder, FILES, seen) == [
        "stage1.safetensors",
        "expected.safetensors: dense.3",
        "expected.json: four_rank",
        "expected.json: threshold_0 L_new",
        "expected.json: threshold_0 grad_norms new.weight",
        "expected.json: no_boxes_hard L_new",
        "expected.json: all_terms rank 1 L_new",
    ]
    assert not not_compared(GOLDEN, FILES, [*seen, Finding("", "dense.3", 0.0, 0.0)])


@needs_golden
def test_a_setting_of_the_losses_that_is_none_is_one_line(tmp_path):
    golden = changed(tmp_path / "golden", "config.json", lambda config: config.update(tic_k="x"))
    with pytest.raises(ValueError, match=r"config\.json: tic_hardest: Input should be a valid integer.*, not 'x'$"):
        _ = golden.settings


@needs_golden
def test_what_is_said_of_the_initialisation_is_compared_too(tmp_path):
    def change(told):
        told["new_temperature_value"] += 0.1
        told["new_tensors"].pop()
        told["unchanged_tensors"].append("dense_feature_head.probe")

    wrong = [
        item.name for item in check_initialisation(changed(tmp_path / "golden", "init_config.json", change)) if not item.ok
    ]
    assert wrong == ["new tensors that differ", "unchanged tensors that differ", "new temperature"]


@needs_golden
@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda config: config.update(texts_per_hard_group=7), "features: its files do not fit together"),
        (
            "config.json",
            lambda config: config["text_config"].update(hidden_size=32),
            "features: .* fit together .*size mismatch",
        ),
        ("batch.safetensors", lambda tensors: tensors["text_short"].fill_(9999), "features: .* fit together .*IndexError"),
    ],
)
def test_files_that_do_not_fit_together_are_one_line(file, change, said, tmp_path):
    with pytest.raises(ValueError, match=rf"golden: {said}") as caught:
        check_folder(changed(tmp_path / "golden", file, change).folder)
    assert "\n" not in str(caught.value)


@needs_golden
def test_a_process_that_fails_says_in_one_line_why(monkeypatch):
    def failing(*arguments):
        raise ProcessRaisedException(
            "-- Process 1 terminated\nTraceback (most recent call last):\nIndexError: index 77\n", 1, 4321
        )

    for other in ("images", "initialisation", "features", "step", "edges", "synthetic"):
        monkeypatch.setattr(f"fgclip2_train.parity.run.check_{other}", lambda *arguments: [])
    monkeypatch.setattr("fgclip2_train.parity.run.check_two_ranks", failing)
    with pytest.raises(ValueError, match=r"two ranks: .* \(ProcessRaisedException: IndexError: index 77\)$"):
        check_folder(GOLDEN)


@needs_golden
def test_a_damaged_picture_is_named(tmp_path):
    golden = changed(tmp_path / "golden", "config.json", lambda config: None)
    file = golden.folder / "images/proc_3.png"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"images/proc_3\.png: cannot be decoded"):
        check_images(golden)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json, weights\.safetensors, .*, expected\.json, "):
        CliRunner().invoke(app, ["parity", str(tmp_path)], catch_exceptions=False)
