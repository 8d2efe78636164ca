"""`config.json` of an FG-CLIP 2 checkpoint: SigLIP 2's, plus the two lengths of the long text walk.

Class names, `model_type`s and keys are those of the released `qihoo360/fg-clip2-*` checkpoints, so that their files load here and
ours load in their code.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import Siglip2Config, Siglip2TextConfig, Siglip2VisionConfig
from transformers.activations import ACT2FN


@strict
class Fgclip2TextConfig(Siglip2TextConfig):
    """keep_len: positions of the long walk that stay as learnt; longtext_len: its fixed number of tokens."""

    model_type = "fgclip2_text_model"

    keep_len: int = 20
    longtext_len: int = 196
    # The Gemma tokenizer's; SigLIP's own defaults lie outside a small vocabulary.
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1


@strict
class Fgclip2VisionConfig(Siglip2VisionConfig):
    model_type = "fgclip2_vision_model"


@strict
class Fgclip2Config(Siglip2Config):
    model_type = "fgclip2"
    sub_configs = {"text_config": Fgclip2TextConfig, "vision_config": Fgclip2VisionConfig}  # noqa: RUF012

    def __post_init__(self, **kwargs):
        # A SigLIP 2 config's parts become ours, whatever their class; their own `model_type` must not win.
        self.text_config = Fgclip2TextConfig(**_plain(self.text_config))
        self.vision_config = Fgclip2VisionConfig(**_plain(self.vision_config))
        super().__post_init__(**kwargs)
        if self.text_config.attention_dropout or self.vision_config.attention_dropout:
            raise ValueError(
                "attention_dropout above 0: FG-CLIP 2 is trained without, and nothing here would do it. Set it to 0"
            )

    @property
    def text(self) -> Fgclip2TextConfig:
        return cast(Fgclip2TextConfig, self.text_config)

    @property
    def vision(self) -> Fgclip2VisionConfig:
        return cast(Fgclip2VisionConfig, self.vision_config)


MOST = {"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 1_000, "num_attention_heads": 1_000}
MOST_POSITIONS = 65_536
"""Beyond these a description is damaged, and making what it describes would take for ever, or all memory."""


def read_config(start: str | Path) -> Fgclip2Config:
    """Of a folder or hub name. Raises ValueError for a value that its key does not take."""
    try:
        config = Fgclip2Config.from_pretrained(start)
    except StrictDataclassError as error:
        raise ValueError(f"{start}/config.json: {' '.join(str(error).split())}") from error
    for name, part in (("text_config", config.text), ("vision_config", config.vision)):
        for key, most in MOST.items():
            if not 1 <= getattr(part, key) <= most:
                raise ValueError(f"{start}/config.json: {name}.{key}: must be 1 to {most} (found {getattr(part, key)})")
        if part.hidden_act not in ACT2FN:
            raise ValueError(f"{start}/config.json: {name}.hidden_act: no such function (found {part.hidden_act!r})")
    for key in ("keep_len", "longtext_len", "max_position_embeddings"):
        value = getattr(config.text, key)
        if type(value) is not int or not 1 <= value <= MOST_POSITIONS:
            raise ValueError(
                f"{start}/config.json: text_config.{key}: must be a whole number from 1 to {MOST_POSITIONS} (found {value!r})"
            )
    if not 0 < config.text.keep_len < config.text.max_position_embeddings:
        raise ValueError(f"{start}/config.json: text_config.keep_len: must be below max_position_embeddings")
    return config


def _plain(config) -> dict:
    values = config if isinstance(config, dict) else config.to_dict() if config is not None else {}
    return {key: value for key, value in values.items() if key not in ("model_type", "transformers_version", "architectures")}


def sized(
    width: int,
    layers: int,
    heads: int,
    mlp: int,
    vocabulary: int,
    text_layers: int | None = None,
    positions: int = 64,
    keep: int = 20,
) -> Fgclip2Config:
    """A config whose two towers have the same width, as in every published SigLIP 2 NaFlex model.

    positions, keep: tokens of the short walk, and how many of them the long walk keeps; every other one becomes four.
    """
    lengths = {"max_position_embeddings": positions, "keep_len": keep, "longtext_len": keep + 4 * (positions - keep)}
    common = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": mlp}
    return Fgclip2Config(
        text_config=common
        | lengths
        | {"num_hidden_layers": text_layers or layers, "vocab_size": vocabulary, "projection_size": width},
        vision_config=common | {"num_hidden_layers": layers},
    )


GEMMA_VOCABULARY = 256_000
FAMILY: dict[str, dict[str, int]] = {
    "base": {"width": 768, "layers": 12, "heads": 12, "mlp": 3072},
    "large": {"width": 1024, "layers": 24, "heads": 16, "mlp": 4096},
    "so400m": {"width": 1152, "layers": 27, "heads": 16, "mlp": 4304},
    "tiny": {"width": 64, "layers": 3, "heads": 4, "mlp": 256, "text_layers": 2, "positions": 32, "keep": 20},
}
"""Sizes by name: B/16, L/16 and So400m/16 of SigLIP 2, and one that trains on a CPU."""
