import pyarrow as pa
import pytest

from operators.pii import Pii, find

KINDS = ("email", "iban", "card", "identity_cn", "ssn_us", "phone", "ip")


def run(operator, *texts):
    return operator(
        pa.table({"uid": [str(i) for i in range(len(texts))], operator.column: pa.array(texts, operator.reads[0].type)})
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to anna.b+c@mail.example.org now", "email"),
        ("联系邮箱abc@x.cn谢谢", "email"),
        ("anna (at) example dot org", "email"),
        ("anna.b [AT] mail.example.org", "email"),
        ("call +49 30 1234567", "phone"),
        ("call 0049 30 1234567", "phone"),
        ("call 1-800-555-0199", "phone"),
        ("热线400-8888-123", "phone"),
        ("电话（010）62511234", "phone"),
        ("Tel (555) 010-0199", "phone"),
        ("手机13812345678", "phone"),
        ("手机１３８ １２３４ ５６７８", "phone"),
        ("电话 010-62511234", "phone"),
        ("card 4111 1111 1111 1111", "card"),
        ("身份证11010519491231002X", "identity_cn"),
        ("SSN 078-05-1120", "ssn_us"),
        ("IBAN DE89 3704 0044 0532 0130 00", "iban"),
        ("server 192.168.0.1", "ip"),
    ],
)
def test_each_kind_is_found_alone(text, kind):
    assert [found for *_, found in find(text, KINDS)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "a 1920 x 1080 photo from 2023-11-22",
        "1967-1972 Ford, 3 000 000 sold",
        "card 4111 1111 1111 1112",  # Luhn fails
        "身份证110105194912310021",  # check digit fails
        "pi is 3.14159265358979",
        "pi is 3.14159265358",
        "100-200-3000 m",
        "a cat (at home) and a dog (at 5 o'clock)",
        "0012 34",
        "DE89 3704 0044 0532 0130 01",
        "@home 5 people",
        "ISBN 978-3-16-148410-0",
        "",
    ],
)
def test_years_sizes_and_numbers_that_fail_their_check_are_left_alone(text):
    assert find(text, KINDS) == []


def test_masking_keeps_the_rest_and_writes_beside_a_column_of_the_source():
    kept = run(Pii(), ["mail a@b.example or 13812345678", "plain"], [None], None).kept
    assert kept["captions_safe"].to_pylist() == [["mail [email] or [phone]", "plain"], [None], None]
    assert kept["captions_pii"].to_pylist() == [2, 0, 0]


def test_a_column_of_a_stage_is_written_over():
    outcome = run(Pii(column="long_caption_en", mask="…"), "ask a@b.example", None)
    assert outcome.kept["long_caption_en"].to_pylist() == ["ask …", None]


def test_dropped_texts_are_items_and_the_detail_does_not_tell_the_secret():
    outcome = run(Pii(action="drop_text"), ["a@b.example", "fine"], ["fine"])
    assert outcome.kept["captions_safe"].to_pylist() == [["fine"], ["fine"]]
    assert [(r.uid, r.item, r.detail) for r in outcome.rejects] == [("0", "captions[0]", "email")]


def test_dropped_samples():
    outcome = run(Pii(action="drop_sample"), ["x", "a@b.example"], ["fine"])
    assert [(r.uid, r.reason, r.item) for r in outcome.rejects] == [("0", "pii", None)]
    assert outcome.kept["uid"].to_pylist() == ["1"]


def test_what_is_beyond_the_part_that_is_looked_at_does_not_pass_unseen():
    (text,) = run(Pii(column="long_caption_en"), "word " * 5000 + "a@b.example").kept["long_caption_en"].to_pylist()
    assert len(text) == 20_000 and "@" not in text


def test_only_the_kinds_that_were_asked_for():
    assert run(Pii(kinds=("email",)), ["13812345678"]).kept["captions_pii"].to_pylist() == [0]
