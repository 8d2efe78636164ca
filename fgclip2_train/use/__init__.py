"""Use of a trained model: scores, dense maps, boxes, feature cache and search, server.

    from fgclip2_train.use import load, open_picture, score
    towers = load("runs/stage2")
    scores = score(towers, [open_picture(data)], ["a black cat", "一只黑猫"])

Names are imported when they are first asked for: the command line must not wait for torch.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "Towers": "towers",
    "load": "towers",
    "BadPicture": "pictures",
    "open_picture": "pictures",
    "Scores": "scores",
    "score": "scores",
    "dense_maps": "dense",
    "draw": "dense",
    "Box": "boxes",
    "find_boxes": "boxes",
    "Cache": "cache",
    "index": "build",
    "Hit": "search",
    "Searcher": "search",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
