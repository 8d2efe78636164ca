"""What lies beside the weights in a released FG-CLIP 2 checkpoint: config.json, the picture processor's settings, and the model's code.

The code makes a checkpoint load where this package is not installed, as the released ones do:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

It is this package's own, copied; the released files of the same names may take its place, since names and shapes agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgclip2_train.model.configuration import Fgclip2Config

AUTO_MAP = {
    "AutoConfig": "configuration_fgclip2.Fgclip2Config",
    "AutoModel": "modeling_fgclip2.Fgclip2Model",
    "AutoModelForCausalLM": "modeling_fgclip2.Fgclip2Model",
}
"""What config.json says to `trust_remote_code`."""

CODE = {
    "configuration": "configuration_fgclip2",
    "model": "modeling_fgclip2",
    "towers": "towers",
    "attention": "attention",
    "gelu": "gelu",
    "geometry": "geometry",
}
"""Modules of this folder that the model consists of, and their names beside a checkpoint."""

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Siglip2ImageProcessor",
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
    "patch_size": 16,
    "max_num_patches": 256,
}
"""Pillow's bilinear, values from -1 to 1; how many patches is said with each call."""


def write_release(folder: Path, config: Fgclip2Config) -> None:
    """config.json with `auto_map`, preprocessor_config.json, and the code that `auto_map` names."""
    config.architectures = ["Fgclip2Model"]
    config.auto_map = AUTO_MAP  # type: ignore[attr-defined]
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2))
    for module, name in CODE.items():
        (folder / f"{name}.py").write_text(portable(Path(__file__).with_name(f"{module}.py").read_text()))


def portable(source: str) -> str:
    """A module of this folder as it must read beside a checkpoint: imports within the folder relative, those of training left out."""
    lines = []
    for line in source.splitlines():
        if line.startswith("from fgclip2_train.model."):
            module, _, names = line.removeprefix("from fgclip2_train.model.").partition(" import ")
            line = f"from .{CODE[module]} import {names}"
        if not line.startswith("from fgclip2_train"):  # the step's batch: an annotation, never evaluated
            lines.append(line)
    return "\n".join(lines) + "\n"
