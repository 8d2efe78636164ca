"""What is done to strangers' texts and addresses, and what is left as it was."""

import pytest

from pipelines.sources.boxes import check_box
from pipelines.sources.cleaning import check_url, clean_text, is_lost, sha256_of


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain text, as it is.", "plain text, as it is."),
        ("  two \t lines\r\nof\u3000text ", "two lines of text"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry &#39;s", "Tom & Jerry 's"),
        ("a <b>bold</b><br/>line", "a bold line"),
        ("a < b > c, x<3", "a < b > c, x<3"),
        ("schÃ¶n â€œquotedâ€\x9d", "schön “quoted”"),
        ("ä¸\xadæ–‡", "中文"),
        ("Größe, naïve café – 50 €", "Größe, naïve café – 50 €"),
        ("e\u0301te\u0301", "été"),
        ("a\x00b\x07c\ufeff\u200bd", "abcd"),
        ("family 👨‍👩‍👧 ✓", "family 👨‍👩‍👧 ✓"),
        ("全角，标点！ＡＢＣ", "全角，标点！ＡＢＣ"),
        ("half \ud800 a pair", "half a pair"),
        ("\u202eevil\u202c \u2066isolated\u2069", "evil isolated"),
        ("None", ""),
        ("NULL", ""),
        ("  &nbsp; ", ""),
        ("none of them", "none of them"),
    ],
)
def test_a_text_comes_out_as_its_author_meant_it(raw, clean):
    assert clean_text(raw) == clean
    assert clean_text(clean) == clean


def test_lost_characters_are_seen():
    assert is_lost("a \ufffd b") and is_lost("锟斤拷") and not is_lost("锟 斤 拷")


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("http://h.example/a.jpg", "http://h.example/a.jpg"),
        (" https://h/a b.jpg\n", "https://h/a%20b.jpg"),
        ("//cdn.example/x.png", "https://cdn.example/x.png"),
        ("HTTP://H/x", "HTTP://H/x"),
        ("http://[2001:db8::1]:80/x", "http://[2001:db8::1]:80/x"),
        ("http://例子.example/图.jpg", "http://例子.example/图.jpg"),
        ("http://h/a\x00b", "http://h/ab"),
        (b"http://h/a", "http://h/a"),
    ],
)
def test_addresses_that_can_be_asked_for(raw, url):
    assert check_url(raw) == (url, "", "")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(None, "no_url"), ("", "no_url"), ("null", "no_url"), (float("nan"), "no_url"), (5, "bad_url"), ("x.jpg", "bad_url")]
    + [(u, "bad_url") for u in ("data:image/png;base64,xx", "file:///etc/passwd", "javascript:x", "http://", "http:///x")]
    + [(u, "bad_url") for u in ("http://h:99999/", "http://[::1/", "ftp://h/x", "http://h/" + "a" * 5000)],
)
def test_addresses_that_cannot(raw, reason):
    assert check_url(raw)[:2] == (None, reason)


def test_boxes_are_clipped_by_a_hair_and_refused_beyond():
    assert check_box([-0.0005, 0, 1.0005, 1]) == ([0.0, 0.0, 1.0, 1.0], "")
    for box in ([0, 0, 1.2, 1], [0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [0, 0, float("inf"), 1], [0, 0, None, 1], [0, 0, 1]):
        assert check_box(box)[0] is None


def test_a_hash_is_sixty_four_hex_digits():
    assert sha256_of("AB" * 32) == sha256_of(b"ab" * 32) == sha256_of(b"\xab" * 32) == "ab" * 32
    assert sha256_of("ab" * 31) is None and sha256_of(None) is None and sha256_of(7) is None
