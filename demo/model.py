"""A tiny Qwen2.5-VL with random weights and its own byte-level tokenizer, which a real vLLM serves.

    python -m demo.model FOLDER

It answers nonsense in well-formed JSON, which is what tests of the way to the model need: real requests, real tokens, real
constrained decoding. Deterministic: the same folder content for the same versions of torch, tokenizers and transformers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's chat format without its default system message and videos."""

PIXELS = {"min_pixels": 3136, "max_pixels": 200_704}
_CORPUS = [
    "A red car is parked next to two small white dogs on the green grass.",
    "Describe this picture. Locate each numbered phrase in the picture.",
    '{"caption":"a photo","boxes":[{"phrase":1,"bbox_2d":[12,34,56,78]}],"verdicts":[true,false]}',
    "一辆红色的汽车停在绿色草地上的两只白色小狗旁边。",
    "描述这张图片。把英文译成通顺的简体中文。",
]


def make(folder: Path) -> None:
    """Write the model into `folder`, whole or not at all."""
    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    tokenizer = tokenizer_of(_CORPUS * 50, vocabulary=600)
    save(build(tokenizer, hidden=128, layers=2, heads=4, vision_hidden=64, vision_depth=2, seed=0), tokenizer, part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def tokenizer_of(corpus: Sequence[str], vocabulary: int, whole: Sequence[str] = (), split: Any = None) -> Any:
    """A byte-level BPE tokenizer with Qwen's special tokens.

    whole  texts that become one token each
    split  a pre-tokenizer instead of the byte-level one
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=SPECIAL[1:],
        chat_template=CHAT,
        model_max_length=4096,
    )


def build(
    tokenizer: Any,
    *,
    hidden: int,
    layers: int,
    heads: int,
    vision_hidden: int,
    vision_depth: int,
    seed: int,
    all_attend: bool = False,
    theta: float = 1e6,
) -> Any:
    """A randomly initialised model. With `all_attend` every vision block sees the whole picture, not only its window."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    # The slowest frequencies are the columns': with equal shares a dozen columns would turn by a few hundredths of a radian, which
    # nothing can read. Texts, whose three positions are one, are the same under any shares.
    third = hidden // heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": theta,
                "mrope_section": [third - third * 3 // 16 - third * 3 // 4, third * 3 // 16, third * 3 // 4],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_hidden,
            "intermediate_size": 2 * vision_hidden,
            "num_heads": vision_hidden // 32,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(vision_depth)) if all_attend else [vision_depth - 1],
            "in_channels": 3,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (bfloat16), tokenizer and the picture processor's settings as vLLM and transformers read them."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        **PIXELS,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["processor_class"] = "Qwen2_5_VLProcessor"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    for path in folder.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
