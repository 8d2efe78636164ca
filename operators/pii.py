"""Find personal data in texts: addresses, telephone, identity and card numbers. Mask them, or refuse the text or the sample.

Reads    `column`          list<string> or string (`captions` by default)
Writes   `into`            the same shape, masked; by default `column` itself, or `captions_safe` for `captions`: no stage may
                           write over a column of the source, so give `pack` that one (`pack: {texts: …}`)
         `column`_pii      int32, findings in all its texts
Refuses  "pii"             the text (item) with `action: drop_text`, the sample with `drop_sample`; the detail names the kind only
Source   own patterns, each with the check its numbers have: ISO 7064 (Chinese identity), Luhn (cards), mod 97 (IBAN). Numbers that
         merely look like a telephone's are left alone: a caption is full of years and sizes

Names of people are not looked for: that needs more than patterns. Only the first `MAX_CHARS` characters of a text are looked at;
what is beyond is cut off by `mask`, so that nothing passes unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, ClassVar, Literal

import pyarrow as pa
from PIL import Image

from operators.base import Operator, Outcome, Reject, keep
from operators.columns import BASE

MAX_CHARS = 20_000
Kind = Literal["email", "iban", "card", "identity_cn", "ssn_us", "phone", "ip"]
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Full-width digits and letters stand for the plain ones; lengths stay."""


def _digits(text: str) -> str:
    return re.sub(r"[^0-9Xx]", "", text).upper()


def _card(text: str) -> bool:
    """A known issuer's first digits, its length, and Luhn's sum."""
    number = _digits(text)
    if not re.fullmatch(r"4\d{12}(\d{3}){0,2}|(5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[068]\d{12}|6\d{15,18}|35\d{14}", number):
        return False
    digits = [int(c) for c in number]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _identity_cn(text: str) -> bool:
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(w * int(c) for w, c in zip(weights, text, strict=False)) % 11] == text[17].upper()


def _iban(text: str) -> bool:
    plain = re.sub(r"\s", "", text).upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


PATTERNS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "email": (
        r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}"
        r"|[A-Za-z0-9._%+-]{1,64} ?[\[(] ?(?i:at) ?[\])] ?[A-Za-z0-9-]{1,63}"  # anna [at] example (dot) org
        r"(?:(?:\.| ?[\[(] ?(?i:dot) ?[\])] ?| (?i:dot) )[A-Za-z0-9-]{1,63}){1,6}",
        lambda _: True,
    ),
    "iban": (r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", _iban),
    "identity_cn": (r"(?<!\d)[1-9]\d{16}[0-9Xx](?![0-9A-Za-z])", _identity_cn),
    "card": (r"(?<![\d.])[2-6]\d{3}(?:[ -]?\d{2,6}){2,5}(?![\d.]\d|\d)", _card),
    "ssn_us": (r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", lambda _: True),
    "phone": (
        r"(?<![\d+.])\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,6}(?!\d)"  # with a country
        r"|(?<![\d.-])(?<!\d )00[1-9]\d{0,2}[ .-](?:[ .-]?\(?\d{1,4}\)?){2,6}(?!\d)"  # … as dialled
        r"|(?<![\d.-])(?:1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])\d{3}[-.]\d{4}(?![\d-])"  # (555) 010-0199
        r"|(?<!\d)(?<!\d\.)1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)"  # Chinese mobile
        r"|(?<!\d)0\d{2,3}[- ]\d{7,8}(?!\d)|\(0\d{2,3}\)[- ]?\d{7,8}(?!\d)"  # Chinese land line
        r"|(?<![\d-])[48]00-\d{4}-\d{3}(?![\d-])",  # Chinese service line
        lambda text: not text.startswith(("+", "00")) or 8 <= len(_digits(text).removeprefix("00")) <= 15,
    ),
    "ip": (r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", lambda text: all(int(part) < 256 for part in text.split("."))),
}  # in the order in which they are looked for: what one has masked, the next does not see
COMPILED = {kind: (re.compile(pattern), holds) for kind, (pattern, holds) in PATTERNS.items()}


def find(text: str, kinds: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what was found, in order, without overlaps."""
    plain = text[:MAX_CHARS].translate(FULL_WIDTH)
    if not re.search(r"[@\d\[(]", plain):
        return []
    found: list[tuple[int, int, str]] = []
    for kind in COMPILED:
        if kind in kinds:
            pattern, holds = COMPILED[kind]
            for match in pattern.finditer(plain):
                start, end = match.span()
                if holds(match[0]) and not any(start < b and a < end for a, b, _ in found):
                    found.append((start, end, kind))
    return sorted(found)


class Pii(Operator):
    column: str = "captions"
    into: str = ""
    action: Literal["mask", "drop_text", "drop_sample"] = "mask"
    kinds: tuple[Kind, ...] = ("email", "iban", "card", "identity_cn", "ssn_us", "phone")
    mask: str = "[{kind}]"

    version: ClassVar[int] = 2
    reasons: ClassVar[dict[str, str]] = {"pii": "the text holds personal data"}

    @property
    def _kind(self) -> pa.DataType:
        return BASE.field(self.column).type if self.column in BASE.names else pa.string()

    @property
    def _into(self) -> str:
        return self.into or (f"{self.column}_safe" if self.column in BASE.names else self.column)

    @property
    def reads(self) -> pa.Schema:
        return pa.schema([(self.column, self._kind)])

    @property
    def writes(self) -> pa.Schema:
        return pa.schema([(self._into, self._kind), (f"{self.column}_pii", pa.int32())])

    def _masked(self, text: str, found: list[tuple[int, int, str]]) -> str:
        text = text[:MAX_CHARS]
        for start, end, kind in reversed(found):
            text = text[:start] + self.mask.replace("{kind}", kind) + text[end:]
        return text

    def __call__(self, batch: pa.Table, images: Sequence[Image.Image] | None = None) -> Outcome:
        safe: list[Any] = []
        counts, gone, items = [], [], []
        for uid, value in zip(batch["uid"].to_pylist(), batch[self.column].to_pylist(), strict=True):
            many = isinstance(value, list)
            texts = value if isinstance(value, list) else [value]
            found = [find(text, self.kinds) if text else [] for text in texts]
            kinds = ", ".join(sorted({kind for hits in found for _, _, kind in hits}))
            counts.append(sum(map(len, found)))
            gone.append(kinds if self.action == "drop_sample" else "")
            made: list[str | None] = []
            for place, (text, hits) in enumerate(zip(texts, found, strict=True)):
                if hits and self.action == "drop_text":
                    item = f"{self.column}[{place}]" if many else self.column
                    items.append(Reject(uid, "pii", ", ".join(sorted({kind for _, _, kind in hits})), item))
                    if not many:
                        made.append(None)
                else:
                    made.append(text if text is None else self._masked(text, hits))
            safe.append(made if many else made[0])
        columns = {self._into: pa.array(safe, self._kind), f"{self.column}_pii": pa.array(counts, pa.int32())}
        return keep(batch.select(["uid"]), columns, {"pii": ([bool(kinds) for kinds in gone], lambda i: gone[i])}, items)
