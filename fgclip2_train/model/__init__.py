"""The FG-CLIP 2 model: SigLIP 2 NaFlex towers with three text walks, a dense head and region pooling."""

from fgclip2_train.model.configuration import Fgclip2Config, Fgclip2TextConfig, Fgclip2VisionConfig
from fgclip2_train.model.model import Features, Fgclip2Model

__all__ = ["Features", "Fgclip2Config", "Fgclip2Model", "Fgclip2TextConfig", "Fgclip2VisionConfig"]
