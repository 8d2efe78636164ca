"""Start FG-CLIP 2 from a plain SigLIP 2 checkpoint of transformers, NaFlex or of a fixed size, or from nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel
from transformers.utils import logging

from fgclip2_train.data.images import PATCH
from fgclip2_train.model.configuration import Fgclip2Config, read_config
from fgclip2_train.model.model import TEMPERATURE, Fgclip2Model
from fgclip2_train.model.weights import check_files, fetch


def stretch_positions(short: Tensor, keep: int, length: int) -> Tensor:
    """The long walk's position table from the short one's: [n, D] -> [keep + 4 (n − keep), D] = [length, D].

    The first `keep` rows are copied. Every later row becomes four, each a quarter of the way further towards its successor; the
    last one runs on in the direction in which it arrived.
    """
    tail = short[keep:]
    if keep + 4 * len(tail) != length:
        raise ValueError(
            f"{len(short)} positions with the first {keep} kept stretch to {keep + 4 * len(tail)}, not to {length}"
        )
    following = torch.cat([tail[1:], (2 * tail[-1] - tail[-2])[None]])
    quarter = torch.arange(4, dtype=short.dtype, device=short.device)[None, :, None] / 4
    stretched = (1 - quarter) * tail[:, None] + quarter * following[:, None]
    return torch.cat([short[:keep], stretched.flatten(0, 1)])


@torch.no_grad()
def adopt_siglip2(model: Fgclip2Model) -> None:
    """Fill what SigLIP 2 does not have from what it has: long positions, the two text heads, the dense head, the temperatures."""
    embeddings, config = model.text_model.embeddings, model.config.text
    stretched = stretch_positions(embeddings.position_embedding.weight, config.keep_len, config.longtext_len)
    embeddings.position_embedding_ori.weight.copy_(stretched)
    embeddings.position_embedding_res.weight.copy_(stretched)
    model.longtext_head.load_state_dict(model.text_model.head.state_dict())
    adopt_region_heads(model)


@torch.no_grad()
def adopt_region_heads(model: Fgclip2Model) -> None:
    """Copy the box head and the dense head from the heads that stage 1 trains, and reset the region temperatures.

    Part of starting from SigLIP 2; again at stage 2 only where stage 1 trained from scratch, since the copies are stale then.
    """
    model.boxtext_head.load_state_dict(model.text_model.head.state_dict())
    model.dense_feature_head.load_state_dict(model.vision_model.head.state_dict())
    model.logit_scale_finegraind.fill_(TEMPERATURE)
    model.logit_scale_hardneg.fill_(TEMPERATURE)


def from_siglip2(state: dict[str, Tensor], config: Siglip2Config | dict) -> Fgclip2Model:
    """FG-CLIP 2 with the weights of a SigLIP 2 state dict."""
    values = config if isinstance(config, dict) else config.to_dict()
    ours = Fgclip2Config(text_config=values["text_config"], vision_config=values["vision_config"])
    model = Fgclip2Model(ours)
    missing, unexpected = model.load_state_dict(state, strict=False)
    allowed = ("boxtext_head", "longtext_head", "dense_feature_head", "logit_scale_", "rank_threshold")
    lacking = [name for name in missing if not name.startswith(allowed) and "position_embedding_" not in name]
    if lacking or unexpected:
        raise ValueError(f"not a SigLIP 2 NaFlex checkpoint: missing {lacking[:3]}, unexpected {list(unexpected)[:3]}")
    adopt_siglip2(model)
    return model


def from_fixed_size(state: dict[str, Tensor], config: SiglipConfig) -> Fgclip2Model:
    """FG-CLIP 2 with the weights of a SigLIP 2 of one picture size, of which there are sizes (L/16) without a NaFlex one.

    Its patches are cut by a convolution: the same weights in another order. Its grid of positions is resized like any other.
    """
    text, vision = (cast(PreTrainedConfig, part).to_dict() for part in (config.text_config, config.vision_config))
    side = vision.pop("image_size") // vision["patch_size"]
    if vision["patch_size"] != PATCH:
        raise ValueError(f"patches of {vision['patch_size']} pixels; pictures are cut into patches of {PATCH} here")
    name = "vision_model.embeddings.patch_embedding.weight"
    state = state | {name: state[name].permute(0, 2, 3, 1).flatten(1)}
    return from_siglip2(state, {"text_config": text, "vision_config": vision | {"num_patches": side**2}})


def from_scratch(config: Fgclip2Config, seed: int, logit_scale: float, logit_bias: float) -> Fgclip2Model:
    """A random model: SigLIP's own initialisation, its heads copied as from a SigLIP 2 start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Fgclip2Model(config)
    with torch.no_grad():
        model.logit_scale.fill_(logit_scale)
        model.logit_bias.fill_(logit_bias)
    adopt_siglip2(model)
    return model


def load_model(start: str | Path) -> Fgclip2Model:
    """A model from a folder or hub name: an FG-CLIP 2 checkpoint (ours or a released one) or a plain SigLIP 2 one."""
    logging.disable_progress_bar()
    folder = Path(start) if Path(start).exists() else fetch(str(start))
    said = described(folder)
    kind = said.get("model_type", "")
    if kind not in ("fgclip2", "siglip2", "siglip"):
        raise ValueError(f"{start}: model_type is {kind!r}; expected 'fgclip2', 'siglip2' or 'siglip'")
    if said.get("quantization_config") is not None:
        raise ValueError(
            f"{folder}/config.json: quantization_config: quantised weights cannot be taken; take those that they were made from"
        )
    check_files(folder)
    if kind == "siglip2":
        siglip = _with_its_weights(Siglip2Model, folder)
        return from_siglip2(siglip.state_dict(), siglip.config)
    if kind == "siglip":
        fixed = _with_its_weights(SiglipModel, folder)
        return from_fixed_size(fixed.state_dict(), fixed.config)
    return _with_its_weights(Fgclip2Model, folder, config=read_config(folder))


def _with_its_weights(kind: type[PreTrainedModel], folder: Path, **options: Any) -> Any:
    """Of transformers' `from_pretrained`, which would make up at random what the file lacks or holds in another shape, and leave out
    what it holds besides, as the layers of a deeper model. In float32, however the file holds them: half precision does not remember
    what a small learning rate adds."""
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of all names would come before the one line below
    try:
        loaded: Any = kind.from_pretrained(str(folder), **options)
    except StrictDataclassError as error:
        raise ValueError(f"{folder}/config.json: {' '.join(str(error).split())}") from error
    finally:
        logging.set_verbosity(before)
    model, report = loaded
    other = [
        f"{name}: {list(found)} in the file, {list(ours)} by its config.json" for name, found, ours in report["mismatched_keys"]
    ]
    lacking = sorted(name for name in report["missing_keys"] if name not in _MAY_LACK)
    besides = sorted(name for name in report["unexpected_keys"] if not name.endswith(".position_ids"))
    other += [
        f"{what} {', '.join(names[:3])}" + " …" * (len(names) > 3)
        for what, names in (("lacks", lacking), ("has no place for", besides))
        if names
    ]
    if other:
        raise ValueError(f"{folder}: not the weights that its config.json describes. " + "; ".join(other[:3]))
    return model


_MAY_LACK = ("logit_scale_finegraind", "logit_scale_hardneg", "rank_threshold")
"""The released model class has no place for the first two, and no checkpoint but ours has the third."""


def described(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises FileNotFoundError, or ValueError for a damaged file."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json there. Give a checkpoint's folder, for instance <out>/checkpoints/last"
        )
    try:
        said = json.loads(file.read_text())
        _ = said.keys()
        return said
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: not a model's description ({error})") from error
