"""What a page shows of one sample, from its columns alone."""

from pipelines.viewer.record import record


def test_captions_and_source_boxes_stand_under_the_language_that_they_would_be_packed_in():
    boxes = [{"box": [0, 0, 1, 1], "text": words, "score": None} for words in ("a red ball", "一个红球")]
    seen = record({"caption_language": "zh", "captions": ["a red ball", "一个红球"], "source_regions": boxes})
    assert {language: [text["text"] for text in texts] for language, texts in seen["texts"].items()} == {
        "en": ["a red ball"],
        "zh": ["一个红球"],
        "": [],
    }
    assert [region["language"] for region in seen["regions"]] == ["en", "zh"]
    (german,) = record({"language": "de", "captions": ["ein Ball"]})["texts"][""]
    assert german["language"] == "de"
