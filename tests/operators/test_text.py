import pyarrow as pa
import pytest

from operators.text import MAX_CHARS, Text


def measure(*captions, **settings):
    table = pa.table({"uid": [str(i) for i in range(len(captions))], "captions": pa.array(captions, pa.list_(pa.string()))})
    return Text(**settings)(table).kept


@pytest.mark.parametrize(
    ("caption", "language"),
    [
        ("a brown dog lies on the green grass", "en"),
        ("一只棕色的小狗坐在草地上", "zh"),
        ("2023年最新款 iPhone 15 手机壳", "zh"),
        ("かわいい犬が芝生で遊んでいます", "ja"),
        ("Vintage Schreibtisch aus dunklem Holz mit drei Schubladen", "de"),
        ("une vieille chaise en bois devant la fenêtre", "fr"),
    ],
)
def test_language(caption, language):
    kept = measure([caption])
    assert kept["caption_language"].to_pylist() == [language]
    assert kept["caption_language_confidence"][0].as_py() > 0.5


@pytest.mark.parametrize("captions", [None, [], [""], [None], ["  \n", None], ["1234 !? --"], ["\x00\u202e\u200b"], ["🐶🐶"]])
def test_nothing_to_tell_from_is_null_and_not_an_error(captions):
    kept = measure(captions)
    assert kept["caption_language"].to_pylist() == [None]
    assert kept["caption_language_confidence"].to_pylist() == [None]
    assert kept["caption_han_share"].to_pylist() == [None]


def test_counts():
    kept = measure(["two words", "", None, "狗"], None, ["红 red"])
    assert kept["caption_count"].to_pylist() == [2, 0, 1]
    assert kept["caption_chars"].to_pylist() == [9, 0, 5]
    assert kept["caption_han_share"].to_pylist() == pytest.approx([1 / 9, None, 1 / 4])


def test_characters_are_code_points_not_bytes():
    assert measure(["一只狗🐶"])["caption_chars"].to_pylist() == [4]


def test_megabytes_of_text_are_read_only_at_the_beginning():
    kept = measure(["the quick brown fox jumps over it " * 60 + "狗" * 3_000_000])
    assert kept["caption_chars"].to_pylist() == [60 * 34 + 3_000_000]
    assert kept["caption_language"].to_pylist() == ["en"]
    assert kept["caption_han_share"].to_pylist() == [0]
    assert MAX_CHARS < 60 * 34


def test_the_answer_does_not_depend_on_the_batch():
    captions = [["a small cat"], ["一只猫"], ["ein kleiner Hund im Garten"], ["un gato"], ["Nike Air Max 90"]]
    together = measure(*captions)["caption_language_confidence"].to_pylist()
    assert together == [measure(c)["caption_language_confidence"][0].as_py() for c in captions]


def test_an_unknown_language_code_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"found en, xx; expected two or more ISO 639-1 codes of af, ar"):
        Text(languages=("en", "xx"))


def test_another_column():
    table = pa.table({"uid": ["a"], "long_captions": [["a dog in the park"]]})
    assert Text(column="long_captions")(table).kept["caption_chars"].to_pylist() == [17]
