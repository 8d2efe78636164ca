import pytest

from operators.answers import Unusable, read_list, read_object, read_text, read_verdicts
from operators.base import Answer


def said(text: str, finish: str = "stop") -> Answer:
    return Answer(text, finish, 0, 0, "hash")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"caption":"a dog"}', {"caption": "a dog"}),
        ('{"caption":"two\nlines\tand a \x01"}', {"caption": "two\nlines\tand a \x01"}),
        ('```json\n{"caption":"a dog"}\n```', {"caption": "a dog"}),
        ('Sure! {"caption":"a dog"} Anything else?', {"caption": "a dog"}),
        ('{"caption":"a \\u72d7"}{"caption":"second"}', {"caption": "a 狗"}),
    ],
)
def test_objects_are_found_in_whatever_form_they_come(text, value):
    parsed = read_object(said(text))
    assert parsed.value == value and not parsed.cut


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"caption":"a dog on the gra', {"caption": "a dog on the gra"}),
        ('{"caption":"a \\', {"caption": "a "}),
        ('{"caption":"a \\u72', {"caption": "a "}),
        ('{"boxes":[{"bbox_2d":[1,2,3,4]},{"bbox_2d":[5,6', {"boxes": [{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5]}]}),
        ('{"boxes":[{"phrase":12', {"boxes": [{}]}),
        ('{"verdicts":[true,false,tr', {"verdicts": [True, False]}),
        ('{"a":1,"cap', {"a": 1}),
        ('{"a":1,"caption"', {"a": 1}),
        ('{"a":1,"caption":', {"a": 1}),
        ("{", {}),
    ],
)  # fmt: skip
def test_a_cut_answer_keeps_what_is_surely_whole(text, value):
    parsed = read_object(said(text, "length"))
    assert parsed.value == value and parsed.cut


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said(""), "empty"),
        (said(" \n "), "empty"),
        (said("no json here"), "not_json"),
        (said('{"a": nonsense}'), "not_json"),
        (said('{"a": NaN}'), "not_json"),
        (said("[1,2]"), "wrong_shape"),
        (said("x" * 5_000_000), "oversized"),
        (said("[" * 50_000), "not_json"),
        (said('{"a":' * 9_000), "not_json"),
        (said("HTTP 400: picture too small", "error:400"), "refused_request"),
        (said("That is against the rules.", "refusal"), "refusal"),
    ],
)
def test_what_cannot_be_used_has_a_reason(answer, reason):
    with pytest.raises(Unusable) as error:
        read_object(answer)
    assert error.value.reason == reason
    assert len(error.value.detail) < 300


@pytest.mark.parametrize(("finish", "cut"), [("stop", False), ("length", True), ("repetition", True), ("content_filter", True)])
def test_an_answer_that_the_model_did_not_end_is_cut(finish, cut):
    assert read_text(said("A dog on the gra", finish), "caption") == ("A dog on the gra", cut)


def test_text_is_read_from_json_or_taken_bare():
    assert read_text(said('{"caption":"a dog"}'), "caption") == ("a dog", False)
    assert read_text(said("a bare dog", "length"), "caption") == ("a bare dog", True)


@pytest.mark.parametrize(
    ("text", "reason"), [('{"caption":5}', "wrong_shape"), ('{"text":"a"}', "wrong_shape"), ('{"caption":" "}', "empty")]
)
def test_a_wrong_or_blank_field_is_no_text(text, reason):
    with pytest.raises(Unusable) as error:
        read_text(said(text), "caption")
    assert error.value.reason == reason


def test_a_bare_list_counts_as_the_list():
    assert read_list(said('[{"label":"a"}]'), "boxes") == ([{"label": "a"}], False)


@pytest.mark.parametrize(
    "text", ['{"verdicts":[true]}', '{"verdicts":[true,"false"]}', '{"verdicts":[1,0]}', '{"verdicts":"yes"}']
)
def test_verdicts_that_do_not_match_the_texts_are_unusable(text):
    with pytest.raises(Unusable):
        read_verdicts(said(text), 2)
    assert read_verdicts(said('{"verdicts":[true,false]}'), 2) == [True, False]


def test_details_show_hidden_characters():
    with pytest.raises(Unusable) as error:
        read_object(said("a\u202eb\x00"))
    assert "\\x202e" in error.value.detail and "\x00" not in error.value.detail


def test_a_text_in_the_quotes_of_json_is_the_text_within():
    assert read_text(Answer('"A \\"red\\" ball."', "stop", 0, 0, "h"), "caption") == ('A "red" ball.', False)
    assert read_text(Answer('"Stop" and "Go".', "stop", 0, 0, "h"), "caption") == ('"Stop" and "Go".', False)
    assert read_text(Answer('"Stop" says one, the other "Go"', "stop", 0, 0, "h"), "caption")[0].startswith('"Stop" says')
