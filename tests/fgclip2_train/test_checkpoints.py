"""Checkpoints: what other programs see of them, and what a full disk, a kill or another number of processes does to them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from fgclip2_train.checkpoint import Saver, latest, load_optimizer, write_checkpoint
from fgclip2_train.data.images import to_patches
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.model import Fgclip2Model
from fgclip2_train.model.configuration import FAMILY, GEMMA_VOCABULARY, sized
from fgclip2_train.model.initialise import from_scratch, load_model

TINY = {"width": 16, "layers": 2, "heads": 2, "mlp": 16, "vocabulary": 300}


@pytest.fixture(scope="module")
def model() -> Fgclip2Model:
    return from_scratch(sized(**TINY), 0, 2.3, -6.0)


@pytest.fixture(scope="module")
def texts():
    return train_tokenizer(["a"], 300)


def test_what_is_saved_loads_again_with_every_value(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = Fgclip2Model.from_pretrained(tmp_path)
    assert set(again.state_dict()) == set(model.state_dict())
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"]["AutoConfig"] == "configuration_fgclip2.Fgclip2Config"
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_fgclip2.Fgclip2Model"


QUICK_START = """
import sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
picture = processor(images=Image.new("RGB", (64, 48), "red"), max_num_patches=128, return_tensors="pt")
short = tokenizer(["a"], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
long = tokenizer(["a"], padding="max_length", max_length=196, truncation=True, return_tensors="pt")
with torch.no_grad():
    shapes = [
        model.get_image_features(**picture).shape,
        model.get_image_dense_feature(**picture).shape,
        model.get_text_features(input_ids=short["input_ids"]).shape,
        model.get_text_features(input_ids=short["input_ids"], walk_type="box").shape,
        model.get_text_features(input_ids=long["input_ids"], walk_type="long").shape,
    ]
print([list(shape) for shape in shapes], "fgclip2_train" in sys.modules)
torch.save(model.state_dict(), sys.argv[2])
"""


def test_a_checkpoint_runs_by_its_own_code_where_this_package_is_not(model, texts, tmp_path):
    folder = write_checkpoint(tmp_path / "run", 1, model.state_dict(), {}, model.config, texts, {})
    script = tmp_path / "quick_start.py"
    script.write_text(QUICK_START)
    (tmp_path / "site").mkdir()
    # An empty package of our name stands before the installed one: touching it would fail.
    (tmp_path / "site" / "fgclip2_train.py").write_text("raise ImportError('not here')")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, script, folder, tmp_path / "state.pt"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[[1, 16], [1, 128, 16], [1, 16], [1, 16], [1, 16]] False"
    state = torch.load(tmp_path / "state.pt")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_plain_siglip2_checkpoint_of_transformers_is_a_start(tmp_path):
    parts = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = Siglip2Config(
        text_config=parts | {"vocab_size": 300, "projection_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
        vision_config=parts,
    )
    plain = Siglip2Model(config)
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert torch.equal(model.boxtext_head.weight, plain.text_model.head.weight)
    assert torch.equal(model.dense_feature_head.probe, plain.vision_model.head.probe)
    assert model.text_model.embeddings.position_embedding_res.weight.shape == (196, 16)


def test_a_siglip_2_of_a_fixed_size_is_a_start_and_sees_the_same(tmp_path):
    parts = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = SiglipConfig(
        text_config=parts | {"vocab_size": 300, "projection_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1},
        vision_config=parts | {"image_size": 128, "patch_size": 16},
    )
    plain = SiglipModel(config).eval()
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path).eval()
    picture = Image.effect_noise((128, 128), 90).convert("RGB")
    patches, grid = torch.from_numpy(to_patches(picture, 8, 8))[None], torch.tensor([[8, 8]])
    pixels = (torch.from_numpy(np.asarray(picture).copy()).float() / 255 - 0.5) / 0.5
    ids = torch.randint(4, 300, (2, 64))
    with torch.no_grad():
        theirs = plain.vision_model(pixels.permute(2, 0, 1)[None]).pooler_output
        ours = model.get_image_features(model.pixels(patches, grid), spatial_shapes=grid)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.encode_text(ids, "short"), plain.text_model(ids).pooler_output, rtol=1e-5, atol=1e-6)
    assert model.config.vision.num_patches == 64
    model.save_pretrained(tmp_path / "again")
    assert load_model(tmp_path / "again").vision_model.embeddings.position_embedding.weight.shape == (64, 16)


@pytest.mark.parametrize("naflex", [True, False])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("lacks one", r"not the weights that its config\.json describes\. lacks vision_model\.head\.probe$"),
        ("other names", r"not the weights that its config\.json describes\. lacks logit_bias, .* …"),
        ("other shape", r"text_model\.head\.weight: \[5, 5\] in the file, \[16, 16\] by its config\.json"),
        ("cut short", r"model\.safetensors: damaged or cut short"),
        ("config", r"config\.json: .*hidden_size"),
    ],
)
def test_a_damaged_siglip2_is_refused_and_nothing_of_it_made_up(damage, said, naflex, tmp_path):
    parts = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = parts | {"vocab_size": 300, "projection_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    if naflex:
        Siglip2Model(Siglip2Config(text_config=text, vision_config=parts)).save_pretrained(tmp_path)
    else:
        vision = parts | {"image_size": 64, "patch_size": 16}
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    weights = load_file(file)
    match damage:
        case "lacks one":
            del weights["vision_model.head.probe"]
        case "other names":
            weights = {f"model.{name}": value for name, value in weights.items()}
        case "other shape":
            weights["text_model.head.weight"] = torch.zeros(5, 5)
        case "config":
            config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": "many"'))
    save_file(weights, file, {"format": "pt"})
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=said):
        load_model(tmp_path)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_weights_kept_in_half_precision_are_trained_in_single(half, model, tmp_path):
    """Left in half precision, a learning rate of 1e-6 would teach them nothing."""
    model.save_pretrained(tmp_path)
    weights = {name: value.to(half) for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(loaded.state_dict()[name], value.float()) for name, value in weights.items())


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("vision_config", "hidden_size", -1, "must be 1 to 65536"),
        ("text_config", "num_attention_heads", 0, "must be 1 to 1000"),
        ("vision_config", "num_hidden_layers", 0, "must be 1 to 1000"),
        ("text_config", "hidden_act", "nope", "no such function"),
        ("text_config", "num_hidden_layers", 10**9, "must be 1 to 1000"),
        ("text_config", "longtext_len", None, "must be a whole number"),
        ("text_config", "keep_len", "20", "must be a whole number"),
        ("text_config", "keep_len", 70, "must be below max_position_embeddings"),
    ],
)
def test_a_description_that_no_model_fits_is_refused_by_key(part, key, value, said, model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: {part}\.{key}: {said}"):
        load_model(tmp_path)


def test_a_checkpoint_of_other_shapes_names_what_differs(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["text_model.head.weight"] = torch.zeros(8, 16)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"text_model\.head\.weight: \[8, 16\] in the file, \[16, 16\] by its config\.json"):
        load_model(tmp_path)


def test_quantised_weights_are_refused_in_one_line(model, tmp_path):
    """Loading them would ask for other packages, or take their whole numbers for weights."""
    model.save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    plain = config.read_text()
    config.write_text(json.dumps(json.loads(plain) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ValueError, match=rf"^{config}: quantization_config: quantised weights cannot be taken[^\n]*$"):
        load_model(tmp_path)
    config.write_text(plain)
    weights = load_file(file)
    weights["text_model.head.weight"] = weights["text_model.head.weight"].to(torch.int8)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"^{file}: text_model\.head\.weight is of kind I8, where weights are floating-point"):
        load_model(tmp_path)


def test_weights_that_are_not_all_there_or_no_safetensors_are_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    parts[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"^{tmp_path}: {parts[1].name} is missing of what model\.safetensors\.index\.json"
    ):
        load_model(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": []}')
    with pytest.raises(ValueError, match=rf"^{index}: damaged"):
        load_model(tmp_path)
    index.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"no model\.safetensors there\. pytorch_model\.bin is of a kind that is not read"
    ):
        load_model(tmp_path)


def test_a_checkpoint_with_dropout_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["attention_dropout"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="attention_dropout above 0"):
        load_model(tmp_path)


def test_a_checkpoint_that_lacks_weights_names_them(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks vision_model\.post_layernorm\.weight"):
        load_model(tmp_path)


def test_a_checkpoint_of_a_deeper_model_than_it_says_is_refused_and_in_one_line(model, tmp_path, capfd):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {
        name.replace("layers.0.", "layers.7."): value.clone() for name, value in weights.items() if "text_model" in name
    }
    weights["text_model.embeddings.position_ids"] = torch.arange(64)[None]  # as older files have them
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"describes\. has no place for text_model\.encoder\.layers\.7\.layer_norm1\.bias, .* …$"
    ):
        load_model(tmp_path)
    assert "REPORT" not in "".join(capfd.readouterr())


def test_the_index_of_weights_in_several_files_may_be_damaged_too(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert all(torch.equal(a, b) for a, b in zip(load_model(tmp_path).parameters(), model.parameters(), strict=True))
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/model\.safetensors\.index\.json: damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("size, millions", [("base", 376), ("large", 882), ("so400m", 1_137)])
def test_the_family_has_the_sizes_of_siglip_2(size, millions):
    with torch.device("meta"):
        model = Fgclip2Model(sized(**FAMILY[size], vocabulary=GEMMA_VOCABULARY))
    vision = model.vision_model
    extra = sum(p.numel() for p in model.dense_feature_head.parameters()) + 2 * sum(
        p.numel() for p in model.longtext_head.parameters()
    )
    extra += 2 * 196 * FAMILY[size]["width"] + 2
    plain = sum(p.numel() for p in model.parameters()) - extra  # what SigLIP 2 itself has
    assert round(plain / 1e6) == pytest.approx(millions, rel=0.005)
    assert vision.embeddings.patch_embedding.weight.shape == (FAMILY[size]["width"], 768)


# -- writing ------------------------------------------------------------------------------------------------------------------


def save(saver, step, model, texts, optimizer=None):
    saver.save(step, model.state_dict(), optimizer or {"step.x": torch.ones(())}, model.config, texts, {"step": step})


def test_the_optimizer_comes_back_and_does_not_change_after_the_call(model, texts, tmp_path):
    saver, moving = Saver(tmp_path, keep=2), {"exp_avg.x": torch.arange(4.0), "step.x": torch.ones(())}
    save(saver, 1, model, texts, moving)
    moving["exp_avg.x"].fill_(-1)  # the next step, while the checkpoint is being written
    saver.wait()
    empty = {"exp_avg.x": torch.zeros(4), "step.x": torch.zeros(()), "exp_avg.new": torch.zeros(2)}
    assert load_optimizer(tmp_path / "step-00000001", empty) == {"exp_avg.x", "step.x"}
    assert empty["exp_avg.x"].tolist() == [0, 1, 2, 3] and empty["step.x"] == 1


def test_a_disk_that_fills_up_says_so_and_leaves_earlier_checkpoints_whole(model, texts, tmp_path):
    """A limit on the size of files makes the kernel refuse writes, as a full disk does: in the optimizer's, then the weights'."""
    run = tmp_path / "run"
    program = f"""
import resource, signal, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_checkpoints import TINY, save
from pathlib import Path
from fgclip2_train.checkpoint import Saver
from fgclip2_train.data.images import to_patches
from fgclip2_train.data.tokens import train_tokenizer
from fgclip2_train.model.configuration import sized
from fgclip2_train.model.initialise import from_scratch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model, texts = from_scratch(sized(**TINY), 0, 2.3, -6.0), train_tokenizer(["a"], 300)
saver = Saver(Path({str(run / "checkpoints")!r}), 2)
save(saver, 1, model, texts)
saver.wait()
for limit in (200, 30_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    saver = Saver(Path({str(run / "checkpoints")!r}), 2)
    try:
        save(saver, 2, model, texts)
        saver.wait()
    except ValueError as error:
        print(limit, error, sorted(path.name for path in Path({str(run / "checkpoints")!r}).iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["200", "30000"], done.stderr
    for line in told:
        assert "checkpoint could not be written" in line and "earlier ones are whole" in line
        assert line.endswith("['last', 'step-00000001']")
    assert latest(run) == run / "checkpoints" / "step-00000001"
    Fgclip2Model.from_pretrained(run / "checkpoints" / "last")


def test_a_checkpoint_cut_short_is_not_taken_for_one(model, texts, tmp_path):
    whole = write_checkpoint(tmp_path / "checkpoints", 1, model.state_dict(), {}, model.config, texts, {})
    cut = whole.with_name(".step-00000002")
    cut.mkdir()
    (cut / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:1000])
    (cut / "trainer.json").write_text("{}")
    assert latest(tmp_path) == whole
    Saver(tmp_path / "checkpoints", keep=2)
    assert not cut.exists()


@pytest.mark.parametrize("again", [True, False])
def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(again, model, texts, tmp_path, monkeypatch):
    """By the same step written again after a resume from an earlier one, and by pruning."""
    run = tmp_path / "run"
    saver = Saver(run / "checkpoints", keep=1)
    save(saver, 5, model, texts)
    saver.wait()

    def killed(folder, ignore_errors=False):
        if (Path(folder) / "model.safetensors").exists():
            (Path(folder) / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    save(saver, 5 if again else 6, model, texts)
    with pytest.raises(KeyboardInterrupt):
        saver.wait()
    monkeypatch.undo()
    assert all((folder / "model.safetensors").exists() for folder in (run / "checkpoints").glob("step-*"))
    assert latest(run) == (None if again else run / "checkpoints" / "step-00000006")
    Saver(run / "checkpoints", keep=1)
    assert not list((run / "checkpoints").glob(".step-*"))
