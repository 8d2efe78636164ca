"""Long captions for one language of a mix alone."""

import asyncio

from operators.recaption_matching import RecaptionMatching


def test_samples_of_another_language_are_not_asked_about():
    operator = RecaptionMatching(language="en")

    async def ask(*_):
        raise AssertionError("nothing is to be asked")

    for language in ("zh", None):
        assert asyncio.run(operator({"uid": "1", "language": language}, None, ask)) == ({"long_caption_en": None}, [])


def test_samples_of_the_language_are():
    made, rejects = asyncio.run(RecaptionMatching(language="en")({"uid": "1", "language": "en"}, None, None))
    assert made == {"long_caption_en": None} and [reject.reason for reject in rejects] == ["no_picture"]
