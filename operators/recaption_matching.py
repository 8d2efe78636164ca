"""`recaption`, only for the samples whose own captions are in the language asked for; the others keep what they have.

Reads    language   string, of the source's captions; and the picture
Writes   as `recaption`; null for the others
Refuses  as `recaption`
Source   FG-CLIP 2, stage 1: long captions were added to the English pairs alone
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from PIL import Image

from operators.base import Ask, Reject, schema
from operators.recaption import Recaption


class RecaptionMatching(Recaption):
    @property
    def reads(self) -> pa.Schema:
        return schema(language=pa.string())

    async def __call__(
        self, sample: dict[str, Any], image: Image.Image | None, ask: Ask
    ) -> tuple[dict[str, Any] | None, list[Reject]]:
        if sample.get("language") != self.language:
            return dict.fromkeys(self.writes.names), []
        return await super().__call__(sample, image, ask)
