import pytest

from operators.perturb.judge import judge


@pytest.mark.parametrize(
    ("positive", "negative", "refusal"),
    [
        ("a grey wall", "a red wall", None),
        ("a grey wall", "a gray wall", "synonym"),
        ("a girl with red hair", "a girl with orange hair", "not_false"),
        ("a girl with a red bag", "a girl with an orange bag", None),
        ("the blue sea", "the green sea", "not_false"),
        ("a large dog", "a big dog", "synonym"),
        ("a red couch", "a red sofa", "synonym"),
        ("two dogs", "2 dogs", "synonym"),
        ("a red ball", "a crimson ball", "not_false"),
        ("a navy hat", "a blue hat", "not_false"),
        ("a fabric bag", "a velvet bag", "not_false"),
        ("a wooden table", "an oak table", "not_false"),
        ("a tall building", "a narrow building", "not_false"),
        ("a black and white dog", "a white and black dog", "synonym"),
        ("a black and white dog", "a black dog", "not_false"),
        ("a red cup on a blue plate", "a blue cup on a red plate", None),
        ("a red dog", "a red cat", "object_changed"),
        ("a red dog", "a red dog", "unchanged"),
        ("a red dog", "A red dog", "unchanged"),
        ("a red plastic cup", "a red text cup", "unknown"),
        ("a wise dog", "a foolish dog", "unknown"),
        ("an orange cat", "an blue cat", "disfluent"),
        ("two brown dogs", "three brown dog", "disfluent"),
        ("a red wooden box", "a blue metal box", "multi_family"),
        ("a dog to the left of a car", "a dog to the right of a car", None),
        ("a dog behind a car", "a dog to the left of a car", "not_false"),
        ("a boy sitting on the left of a bench", "a boy sitting on a bench", "not_false"),
        ("a boy sitting on the left of a bench", "a boy sitting on the right of a bench", None),
        ("a cat under the table", "a cat on the left side of the table", "not_false"),
        ("two dogs are running", "one dog is running", None),
        ("a large dog", "a not small dog", "unknown"),
        ("a red car", "an almost blue car", "unknown"),
        ("a man without a red hat", "a man without a blue hat", "not_false"),
        ("a bowl with no red apples", "a bowl with no green apples", "not_false"),
        ("a man without a hat, in a red shirt", "a man without a hat, in a blue shirt", None),
        ("a woman holding a red bag and wearing a hat", "a woman wearing a hat and holding a red bag", "unknown"),
    ],
)
def test_english_verdicts(positive, negative, refusal):
    assert judge(positive, negative, "en").refusal() == refusal


@pytest.mark.parametrize(
    ("positive", "negative", "refusal"),
    [
        ("一只灰色的狗", "一只红色的狗", None),
        ("一只棕色的狗", "一只褐色的狗", "synonym"),
        ("一个巨大的盒子", "一个庞大的盒子", "synonym"),
        ("一个巨大的盒子", "一个大的盒子", "not_false"),
        ("一件布料的外套", "一件纯棉的外套", "not_false"),
        ("三只狗", "两只狗", None),
        ("三只狗", "二只狗", "disfluent"),
        ("一只红色的狗", "一只红色的猫", "object_changed"),
        ("一只小狗", "一只不大的狗", "unknown"),
        ("两只狗", "一对狗", "unknown"),
        ("没戴红帽子的男人", "没戴蓝帽子的男人", "not_false"),
        ("一个没有条纹的红色帽子", "一个没有条纹的蓝色帽子", None),
        ("一个大球", "一个巨大的球", "not_false"),
        ("一个红色的球", "一只红色球", "unchanged"),
        ("一个不锈钢的红色杯子", "一个不锈钢的蓝色杯子", None),
    ],
)
def test_chinese_verdicts(positive, negative, refusal):
    assert judge(positive, negative, "zh").refusal() == refusal


@pytest.mark.parametrize(
    ("positive", "negative", "language"),
    [
        ("two dogs", "one pair of dogs", "en"),
        ("twelve eggs", "one dozen eggs", "en"),
        ("两只狗", "一对狗", "zh"),
        ("十二个鸡蛋", "一打鸡蛋", "zh"),
    ],
)
def test_as_many_by_the_set_is_no_negative(positive, negative, language):
    assert judge(positive, negative, language).truth != "false"


def test_a_verdict_explains_every_change_and_counts_the_doubtful_ones():
    verdict = judge("a grey fabric chair", "a red velvet chair", "en")
    assert verdict.truth == "false" and verdict.families == ("colour", "material") and verdict.doubtful == 1
    assert verdict.why == ("'red' for 'grey': cannot both hold", "'velvet' for 'fabric': is a kind of it")
    assert verdict.refusal(families_changed=2) is None and verdict.refusal(families_changed=1) == "multi_family"


def test_fluency_is_judged_apart_from_truth():
    verdict = judge("an orange cat", "an gray cat", "en")
    assert verdict.truth == "false" and verdict.disfluent == ("article: 'an gray'",)
    assert judge("a red cup", "", "en").truth == "object_changed"


@pytest.mark.parametrize("word", ["zzz", "zorp", "brrr", "sooo"])
def test_a_word_that_is_none_is_not_fluent(word):
    assert judge("a red car", f"a blue car with {word}", "en").refusal() == "disfluent"
    assert judge(f"a red car with {word}", f"a blue car with {word}", "en").refusal() is None, "it is the positive's own"


def test_rare_words_names_and_acronyms_are_words():
    text = "a blue car near Fuji with quilted seats, a seersucker hoodie, chartreuse BMW stripes and bearded skateboarders"
    assert not judge("a red car", text, "en").disfluent
