"""The model that `make demo` serves looks at the picture: what it says of a scene is right, and a blanked picture takes that away."""

import random

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from demo import lessons
from demo.check_vlm import claims, scene_of
from demo.negatives import claim_of
from demo.school import chat
from demo.way import VLM

SLOTS = ("colour", "surface", "shape")
SCENES = 12


@pytest.fixture(scope="module")
def served():
    processor = AutoProcessor.from_pretrained(VLM)
    return processor, Qwen2_5_VLForConditionalGeneration.from_pretrained(VLM, dtype=torch.float32).eval()


def attributes_right(served, language, blank):
    """Share of the attributes of a scene's things that its long caption names, in the caption's order."""
    processor, model = served
    right = []
    for number in range(SCENES):
        scene = scene_of(number, 28_224)
        picture = Image.new("RGB", scene.image.size, (128, 128, 128)) if blank else scene.image
        before, _ = chat(lessons.long_caption(scene, language, random.Random(0)))
        inputs = processor(text=[before], images=[picture], return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=160, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        said = claims(processor.tokenizer.decode(out, skip_special_tokens=True), language)
        for i, true in enumerate(map(claim_of, scene.things)):
            right += [i < len(said) and getattr(said[i], slot) == getattr(true, slot) for slot in SLOTS]
    return sum(right) / len(right)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_blanked_picture_takes_the_attributes_away(served, language):
    assert attributes_right(served, language, blank=False) > 0.8
    assert attributes_right(served, language, blank=True) < 0.3
