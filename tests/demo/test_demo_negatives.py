import json
import random
import tarfile

import pytest

from demo.negatives import changed, claim_of, negatives
from demo.scenes import render
from demo.words import all_phrases


@pytest.mark.parametrize("language", ["en", "zh"])
def test_ten_distinct_negatives_all_false_and_sayable(language):
    sayable = set(all_phrases(language))
    elsewhere = 0
    for seed in range(120):
        scene = render(seed)
        for thing in scene.things:
            texts = negatives(scene, thing, language, random.Random(seed))
            assert len({n["text"] for n in texts}) == 10
            for negative in texts:
                assert negative["text"] in sayable and negative["text"] != thing.short(language)
                start, end = negative["span"]
                before = negative["text"][:start] + negative["original"] + negative["text"][end:]
                assert before == thing.short(language)
                others = [o for o in scene.things if o is not thing and o.short(language) == negative["text"]]
                assert not others or negative["flags"] == ["present_elsewhere"]
                elsewhere += bool(negative["flags"])
    assert elsewhere > 0


def test_a_claim_fits_its_own_thing_and_no_other():
    for scene in map(render, range(100)):
        for thing in scene.things:
            assert [o for o in scene.things if claim_of(thing).fits(o)] == [thing]


def test_the_changed_span_is_made_of_whole_words_in_english():
    assert changed("a red ball", "an orange ball", by_words=True) == (0, 9, "a red")
    assert changed("two small red balls", "two large red balls", by_words=True) == (4, 9, "small")
    assert changed("两个红色小球", "两个橙色小球", by_words=False) == (2, 3, "红")


def test_the_text_most_like_the_others_is_seldom_the_true_one():
    """The blind attack that solves most published sets: choose the text with most words in common with the other ten."""
    found = groups = 0
    for seed in range(150):
        scene = render(seed)
        for thing in scene.things:
            group = [thing.short("en"), *(n["text"] for n in negatives(scene, thing, "en", random.Random(seed)))]
            random.Random(seed).shuffle(group)
            words = [set(text.split()) for text in group]
            likeness = [sum(len(a & b) / len(a | b) for b in words) for a in words]
            found += group[likeness.index(max(likeness))] == thing.short("en")
            groups += 1
    print(f"centroid attack: {found} of {groups}")
    assert found / groups < 0.16  # chance is 1 in 11


def test_evaluation_shards_hold_truth_in_the_shard_format(small):
    folder, _, _ = small
    seen = []
    for path in sorted((folder / "eval").glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [name.split(".")[1] for name in names] == ["jpg", "json"] * (len(names) // 2)
            for name in names[1::2]:
                record = json.load(tar.extractfile(name))
                assert name == record["uid"] + ".json" and len(record["uid"]) == 32
                assert {(t["language"], t["length"]) for t in record["texts"]} == {
                    (a, b) for a in ("en", "zh") for b in ("short", "long")
                }
                for region in record["regions"]:
                    x1, y1, x2, y2 = region["box"]
                    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
                    assert len(region["negatives"]) == 10 and region["short"] in region["long"]
                seen.append(record["uid"])
    assert len(seen) == len(set(seen)) == 5


def test_evaluation_shards_pass_the_validator(small):
    from pipelines.shard_format import validate_shard

    folder, _, _ = small
    for path in sorted((folder / "eval").glob("*.tar")):
        assert validate_shard(path).errors == []
