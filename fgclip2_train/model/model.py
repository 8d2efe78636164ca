"""FG-CLIP 2 as one module: what goes into a step's losses comes out of `forward`, with the official parameter names."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Siglip2PreTrainedModel
from transformers.models.siglip2.modeling_siglip2 import Siglip2MLP

from fgclip2_train.batch import Batch
from fgclip2_train.model.attention import NAME, Padding
from fgclip2_train.model.configuration import Fgclip2Config
from fgclip2_train.model.gelu import TANH_GELU, Gelu
from fgclip2_train.model.geometry import Places, region_weights
from fgclip2_train.model.towers import AttentionHead, TextTower, VisionTower

TEMPERATURE = 4.6052
"""ln 100 as FG-CLIP 2 writes it: the start of the region and the hard-negative temperature."""


@dataclass
class Features:
    """Unit vectors of one rank's batch, width D. The last three are absent in a global-only step.

    image, short, long  [B, D]     region, region_text  [R, D]     hard_region  [H, D]     hard_text  [H, 11, D]
    """

    image: Tensor
    short: Tensor
    long: Tensor
    region: Tensor | None = None
    region_text: Tensor | None = None
    hard_region: Tensor | None = None
    hard_text: Tensor | None = None

    def present(self) -> dict[str, Tensor]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


class Fgclip2Model(Siglip2PreTrainedModel):
    """State dict as the released checkpoints', plus one buffer, `rank_threshold`, the margin of the rank loss (0 where missing)."""

    config: Fgclip2Config
    config_class = Fgclip2Config
    rank_threshold: Tensor
    base_model_prefix = "fgclip2"
    main_input_name = "pixel_values"
    """With "input_ids", its own, transformers looks for embeddings to hook once layers are recomputed, and warns that it finds none."""

    def __init__(self, config: Fgclip2Config):
        super().__init__(config)
        text, vision = config.text, config.vision
        text._attn_implementation = vision._attn_implementation = NAME
        self.text_model = TextTower(text)
        self.vision_model = VisionTower(vision)
        self.longtext_head = nn.Linear(text.hidden_size, text.projection_size or text.hidden_size)
        self.boxtext_head = nn.Linear(text.hidden_size, text.projection_size or text.hidden_size)
        self.dense_feature_head = AttentionHead(vision)
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))
        self.logit_scale_finegraind = nn.Parameter(torch.tensor(TEMPERATURE))
        self.logit_scale_hardneg = nn.Parameter(torch.tensor(TEMPERATURE))
        self.register_buffer("rank_threshold", torch.zeros(()))
        for block in self.modules():
            if isinstance(block, Siglip2MLP) and block.config.hidden_act == TANH_GELU:
                block.activation_fn = Gelu()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            # Only what a loaded file lacks comes through here (`_is_hf_initialized` guards the rest in `initialization`).
            for name in ("logit_scale_finegraind", "logit_scale_hardneg"):
                _fill(getattr(self, name), TEMPERATURE)
            for name in ("logit_scale", "logit_bias", "rank_threshold"):
                _fill(getattr(self, name), 0.0)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of the short and box walks, and of the long one: 64 and 196 in every released model."""
        return self.config.text.max_position_embeddings, self.config.text.longtext_len

    # -- towers -----------------------------------------------------------------------------------------------------------

    def vision(self, patches: Tensor, grid: Tensor) -> tuple[Tensor, Places, Padding]:
        """patches [B, T, 768] bytes, grid [B, 2] -> tokens [B, T, D], their places, and which of them count."""
        return self.vision_model(self.pixels(patches, grid), grid)

    def pixels(self, patches: Tensor, grid: Tensor) -> Tensor:
        """Bytes to (v/255 − 0.5)/0.5 in float32, zero (not −1) where a token is padding, then the weights' type."""
        values = (patches.to(torch.float32) / 255 - 0.5) / 0.5
        valid = torch.arange(patches.shape[1], device=grid.device) < grid.prod(-1, keepdim=True)
        return torch.where(valid[..., None], values, 0).to(self.logit_scale.dtype)

    def encode_dense(self, patches: Tensor, grid: Tensor) -> Tensor:
        """The dense map [B, T, D], not normalised; rows of padding tokens are meaningless."""
        tokens, _, pad = self.vision(patches, grid)
        return self.dense_feature_head.dense(tokens, pad)

    def encode_text(self, ids: Tensor, walk: str) -> Tensor:
        """Text vector [B, D], not normalised. walk: short (64 tokens), long (196) or box (64)."""
        heads = {"short": self.text_model.head, "long": self.longtext_head, "box": self.boxtext_head}
        if walk not in heads:
            raise ValueError(f"no such text walk: {walk}. Use one of {', '.join(heads)}")
        return heads[walk](self.text_model(**{"long" if walk == "long" else "short": ids}))

    def regions(self, dense: Tensor, boxes: Tensor, grid: Tensor, places: Places, extent: int) -> Tensor:
        """Region vectors of all slots [B, S, D], not normalised; an empty slot (zero box) gives zeros. Pooled in at least float32, as
        officially, under autocast too."""
        exact = torch.promote_types(dense.dtype, torch.float32)
        with torch.autocast(dense.device.type, enabled=False):
            return region_weights(boxes.to(exact), grid, *places, extent) @ dense.to(exact)

    # -- as the released checkpoints' users call it ---------------------------------------------------------------------------

    def get_image_features(
        self, pixel_values: Tensor, pixel_attention_mask=None, spatial_shapes: Tensor | None = None
    ) -> Tensor:
        """Global image vectors [B, D] of the picture processor's output, not normalised."""
        tokens, pad = self._processed(pixel_values, spatial_shapes)
        return self.vision_model.head(tokens, pad)

    def get_image_dense_feature(
        self, pixel_values: Tensor, pixel_attention_mask=None, spatial_shapes: Tensor | None = None
    ) -> Tensor:
        """Dense maps [B, T, D] of the picture processor's output, not normalised; rows beyond rows · columns are meaningless."""
        tokens, pad = self._processed(pixel_values, spatial_shapes)
        return self.dense_feature_head.dense(tokens, pad)

    def get_text_features(self, input_ids: Tensor, attention_mask=None, walk_type: str = "short") -> Tensor:
        """Text vectors [B, D], not normalised. Padding is attended to, so a mask changes nothing."""
        return self.encode_text(input_ids, walk_type)

    def _processed(self, pixel_values: Tensor, spatial_shapes: Tensor | None) -> tuple[Tensor, Padding]:
        if spatial_shapes is None:
            raise ValueError("spatial_shapes is missing: hand over all that the image processor gives")
        tokens, _, pad = self.vision_model(pixel_values.to(self.logit_scale.dtype), spatial_shapes)
        return tokens, pad

    def save_pretrained(self, save_directory, *arguments, **options) -> None:  # type: ignore[override]
        """Weights, config.json with `auto_map`, and the code that it names."""
        super().save_pretrained(save_directory, *arguments, **options)
        try:
            from fgclip2_train.model.release import write_release
        except ImportError:  # this is the code beside a checkpoint, which transformers copies by itself
            return
        write_release(Path(save_directory), self.config)

    # -- one step ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, regional: bool = True) -> Features:
        """All features that the losses need. `regional` False is stage 1: the dense head and the box walk are not touched.

        Short captions and region phrases share tower, length and positions, so they go through it together; each distinct phrase
        is encoded once and then referred to by its row.
        """
        tokens, places, pad = self.vision(batch.patches, batch.grid)
        image = self.vision_model.head(tokens, pad)
        said = [batch.short, batch.phrases] if regional else [batch.short]
        *pooled, long = self.text_model(torch.cat(said), batch.long).split([*map(len, said), len(batch.long)])
        features = Features(image=unit(image), short=unit(self.text_model.head(pooled[0])), long=unit(self.longtext_head(long)))
        if not regional:
            return features
        phrase = unit(self.boxtext_head(pooled[1]))
        dense = self.dense_feature_head.dense(tokens, pad)
        slots = self.regions(dense, batch.boxes, batch.grid, places, batch.extent)
        region = unit(slots.flatten(0, 1))
        return replace(
            features,
            region=region[batch.region_slot],
            region_text=phrase[batch.region_phrase],
            hard_region=region[batch.hard_slot],
            hard_text=phrase[batch.hard_phrases],
        )

    def compile_layers(self) -> None:
        """Compile every encoder layer by itself: one graph per tower serves all of its layers, so it is quick."""
        for tower in (self.vision_model, self.text_model):
            for layer in tower.encoder.layers:
                layer.compile(dynamic=False)

    def freeze_unused(self, regional: bool) -> None:
        """Take parameters that a step of this kind never reaches out of training, so that every other one has a gradient.

        Always the probe of the dense head. In a global-only stage also the dense head, the box head and both extra temperatures.
        The optimizer leaves them alone, decay included, as the official program does for parameters without gradient.
        """
        unused = [self.dense_feature_head.probe]
        if not regional:
            unused += [*self.dense_feature_head.parameters(), *self.boxtext_head.parameters()]
            unused += [self.logit_scale_finegraind, self.logit_scale_hardneg]
        for parameter in unused:
            parameter.requires_grad_(False)


def unit(vectors: Tensor) -> Tensor:
    """Rows of length one, in at least float32. A zero row stays zero."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def _fill(tensor: Tensor, value: float) -> None:
    if not getattr(tensor, "_is_hf_initialized", False):
        tensor.fill_(value)
