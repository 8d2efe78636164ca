import json

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from demo import model


def test_the_random_model_is_the_same_every_time_and_answers(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    model.make(first)
    model.make(second)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert sum(path.stat().st_size for path in first.iterdir()) < 2e6
    processor = AutoProcessor.from_pretrained(first)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "描述这张图片。"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>") and text.endswith("<|im_start|>assistant\n")
    inputs = processor(text=[text], images=[Image.new("RGB", (112, 56), "red")], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 8]]
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(first, dtype=torch.float32).eval()
    with torch.no_grad():
        out = network.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_it_replaces_what_a_killed_run_left(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "junk").write_text("half")
    model.make(tmp_path / "model")
    assert not (tmp_path / "model" / "junk").exists()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == [
        "Qwen2_5_VLForConditionalGeneration"
    ]
