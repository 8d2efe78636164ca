import pyarrow as pa
import pytest
from pydantic import ValidationError

from operators.columns import NEGATIVES, REGIONS
from operators.hard_negatives import HardNegatives
from operators.perturb import chinese, english
from operators.perturb.diff import diff_span
from operators.perturb.distribution import measure
from operators.perturb.inflect import mend_articles
from operators.perturb.judge import judge
from operators.perturb.regions import normal

LEFT, RIGHT = [0.0, 0.0, 0.4, 1.0], [0.6, 0.0, 1.0, 1.0]


def table(*samples):
    """Each sample is a list of (text, box[, language])."""
    regions = [
        [
            {"box": box, "score": None, "short": text, "long": text, "language": (rest or [None])[0], "origin": "human"}
            for text, box, *rest in sample
        ]
        for sample in samples
    ]
    return pa.table({"uid": [f"{i:032x}" for i in range(len(samples))], "regions": pa.array(regions, REGIONS)})


def run(*samples, **settings):
    outcome = HardNegatives(**settings)(table(*samples))
    return outcome.kept["negatives"].to_pylist(), outcome.rejects


def group(text, **settings):
    groups, rejects = run([(text, LEFT)], **settings)
    assert rejects == []
    return groups[0][0]


@pytest.mark.parametrize(
    "text",
    [
        *("A small red wooden box.", "two brown dogs", "一只黑色的狗", "一把由金属制成的椅子", "a bald man", "a sleeping cat"),
        *("a smiling woman", "a round table", "关着的木门", "一个秃头的男人", "一只站着的狗", "方形的窗户"),
    ],
)
def test_a_group_has_ten_texts_that_differ_from_the_positive_and_each_other(text):
    texts = [negative["text"] for negative in group(text)]
    assert len(texts) == 10 and len({*texts, text}) == 11


def test_two_words_on_different_axes_are_each_changed():
    negatives = group("a tall thin man with a round red hat", families_changed=3, spread=1)
    assert {" ".join(negative["text"].split()[1:3]) for negative in negatives} == {"tall thin", "short thin", "tall fat"}
    alone = run([("a tall thin man", LEFT)])[1][0].detail
    assert alone.startswith("room for 2 of 10")


def test_the_span_marks_exactly_what_was_changed():
    for negative in group("A lamp with a red glass shade."):
        start, end = negative["start"], negative["end"]
        restored = negative["text"][:start] + negative["original"] + negative["text"][end:]
        assert restored == "A lamp with a red glass shade."
        assert negative["origin"] == "lexical" and negative["family"] in ("colour", "material")


@pytest.mark.parametrize(
    ("text", "head"),
    [("an orange cat", "cat"), ("a black plastic trash can", "trash can"), ("一个木质的盒子", "盒子"), ("三朵黄色的花", "花")],
)
def test_the_object_is_kept(text, head):
    assert all(head.removesuffix("s") in negative["text"] for negative in group(text))


def test_articles_follow_the_next_word_and_capitals_and_punctuation_stay():
    texts = [negative["text"] for negative in group("An orange fabric chair!", families=("colour",))]
    assert all(text.endswith(" fabric chair!") for text in texts)
    assert all(text.startswith("An " if text[2:].strip()[0] in "aeio" else "A ") for text in texts)
    assert (
        mend_articles("a orange unicorn in an uniform, a hour, an one-eyed cat")
        == "an orange unicorn in a uniform, an hour, a one-eyed cat"
    )


def test_a_count_changes_nouns_and_verbs_with_it():
    texts = {negative["text"] for negative in group("Two white dogs are running.", families=("count",))}
    assert "Three white dogs are running." in texts
    assert all("dogs are" in text or text.startswith("One white dog is") for text in texts)
    assert {negative["text"] for negative in group("one child", families=("count",))} >= {"two children"}


def test_chinese_counts_use_liang_before_a_measure_word():
    texts = [negative["text"] for negative in group("三只狗", families=("count",))]
    assert "两只狗" in texts and "二只狗" not in texts


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("a gray wall", {"grey", "silver", "charcoal", "light grey"}),
        ("a red car", {"crimson", "scarlet", "burgundy", "dark red", "maroon"}),
        ("a navy blue shirt", {"blue", "dark blue", "black"}),
        ("a fabric bag", {"velvet", "cotton", "wool", "denim", "cloth"}),
        ("a wooden table", {"oak", "wood", "bamboo"}),
        ("一面灰色的墙", {"银色", "银灰色", "浅灰色", "灰"}),
    ],
)
def test_what_may_also_be_true_is_never_a_negative(text, never):
    groups, _ = run(*[[(text, LEFT)]] * 20)
    words = {
        sample[0][i]["text"][sample[0][i]["start"] : sample[0][i]["end"]] for sample in groups if sample[0] for i in range(10)
    }
    assert words and not words & never


@pytest.mark.parametrize(
    "text",
    ["an orange", "a glass of orange juice", "a gold medal", "The White House", "a black and white photo of a cat", "a rose",
     "a cup of green tea",
     "a rose gold ring", "a cherry red guitar", "a steel blue car", "a knitted woolen sweater",
     "a sign that says \"red car\"", "a brown bear", "红绿灯", "一棵白菜", "一块黑板", "一条金鱼", "一块写着“红色”的牌子"],
)  # fmt: skip
def test_words_that_only_look_like_attributes_are_left_alone(text):
    groups, rejects = run([(text, LEFT)])
    assert groups == [[[]]] and [(reject.reason, reject.item) for reject in rejects] == [("no_attribute", "negatives[0]")]


@pytest.mark.parametrize(
    "text",
    [
        "a man without a red hat",
        "a ball that is not red",
        "neither a red nor a blue ball",
        "没戴红帽子的男人",
        "没有红色花朵的花瓶",
    ],
)
def test_what_is_denied_is_not_changed_since_another_word_there_is_as_true(text):
    groups, rejects = run([(text, LEFT)])
    assert groups == [[[]]] and [reject.reason for reject in rejects] == ["no_attribute"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a blue and white striped umbrella", ("plain", "solid")),
        ("a red-and-white checkered tablecloth", ("plain", "solid")),
        ("一把蓝白条纹的雨伞", ("纯色", "素色")),
    ],
)
def test_what_has_several_colours_is_not_said_to_be_plain(text, plain):
    groups, _ = run(*[[(text, LEFT)]] * 20, families=["pattern"])
    texts = [negative["text"] for sample in groups for negative in sample[0]]
    assert texts and not any(word in text for text in texts for word in plain)


def test_attributes_beside_a_denial_are_changed():
    assert all("帽子" in negative["text"] and "没有条纹" in negative["text"] for negative in group("一个没有条纹的红色帽子"))
    assert all("no-parking" in negative["text"] for negative in group("a no-parking red sign"))


def test_members_of_a_group_that_differ_only_in_width_article_or_counter_are_the_same():
    assert normal("Ａ blue ball.") == normal("the Blue ball") and normal("一个蓝色的球") == normal("一只蓝色球")
    assert normal("一个蓝色的球") != normal("两个蓝色的球")


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("a thick grey wool scarf", ("stone", "glass", "wooden", "metal")),
        ("a tall stone tower", ("fabric", "leather", "rubber")),
        ("a brown horse with a white mane", ("blue mane", "pink mane", "green mane")),
        ("a waiter carrying a green tray", ("kicking", "burying", "chasing")),
        ("a rusty red truck on the grass", ("under", "below")),
        ("一条灰色羊毛围巾", ("石", "玻璃", "木", "金属")),
        ("穿红色条纹睡衣的孩子", ("木纹", "大理石纹")),
        ("骑着黑马的士兵", ("拿", "举", "踩")),
        ("一匹奔跑的白马", ("冲浪", "滑冰")),
    ],
)
def test_what_no_such_thing_is_or_does_is_not_written(text, never):
    (phrase,) = (chinese if ord(text[0]) > 255 else english).parse([text])
    engine = chinese if phrase.language == "zh" else english
    written = [engine.render(phrase, {i: o}) for i, slot in enumerate(phrase.slots) for o in engine.options(slot)]
    assert written and not [made for made in written if any(word in made for word in never)]


def test_a_single_size_word_is_too_little_for_ten():
    groups, (reject,) = run([("a large umbrella", LEFT)])
    assert groups == [[[]]] and reject.reason == "too_few" and "large umbrella" in reject.detail


def test_true_elsewhere_in_the_picture_is_kept_and_flagged():
    groups, _ = run(*[[("a red car", LEFT), ("a blue car", RIGHT)]] * 10)
    negatives = [negative for sample in groups for negative in sample[0]]
    assert {negative["text"] for negative in negatives if negative["flags"] == ["present_elsewhere"]} == {"a blue car"}
    assert all(negative["flags"] for negative in negatives if negative["text"] == "a blue car")


def test_a_chinese_material_or_pattern_before_a_size_is_an_attribute_like_the_others():
    assert {n["family"] for n in group("一颗红色条纹小星星", families=["pattern"])} == {"pattern"}
    assert {n["family"] for n in group("一只黑色金属大花瓶", families=["material"])} == {"material"}
    groups, _ = run(*[[("一颗红色条纹小星星", LEFT), ("一颗蓝色圆点小星星", RIGHT)]] * 10)
    blue = [n for sample in groups for n in sample[0] if n["text"] == "一颗蓝色条纹小星星"]
    assert blue and not any(n["flags"] for n in blue), "the blue one is dotted"


def test_a_chinese_thing_with_a_size_is_the_same_kind_of_thing_as_one_without():
    groups, _ = run(*[[("一个红色木制盒子", LEFT), ("一个蓝色木制小盒子", RIGHT)]] * 10)
    blue = [n for sample in groups for n in sample[0] if n["text"] == "一个蓝色木制盒子"]
    assert blue and all(n["flags"] == ["present_elsewhere"] for n in blue)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("两个穿蓝色衬衫的男孩", {("count", "两", "男孩"), ("colour", "蓝", "衬衫")}),
        ("两个戴帽子的男孩", {("count", "两", "男孩")}),
        ("两个人站在门前", {("count", "两", "人"), ("action", "站", "人")}),
        ("在田野里奔跑的马", {("action", "奔跑", "马")}),
        ("男孩坐在红色的椅子上", {("action", "坐", "男孩"), ("colour", "红", "椅子")}),
        ("三只黑白相间的猫", {("count", "三", "猫"), ("colour", "黑", "猫"), ("colour", "白", "猫")}),
        ("一只黄塑料桶", {("colour", "黄", "塑料桶"), ("material", "塑料", "桶")}),
        ("一个高高的玻璃花瓶", {("size", "高", "花瓶"), ("material", "玻璃", "花瓶")}),
        ("一个空玻璃瓶", {("state", "空", "玻璃瓶"), ("material", "玻璃", "瓶")}),
        ("车门打开的银色汽车", {("state", "打开", "车门"), ("colour", "银", "汽车")}),
        ("装满米饭的白色小碗", {("colour", "白", "碗"), ("size", "小", "碗")}),
        ("戴帽子的年轻男子", {("state", "年轻", "男子")}),
        ("一只棕白色的狗", {("colour", "棕", "狗"), ("colour", "白", "狗")}),
        ("木桌上的红杯子", {("material", "木", "桌"), ("relation", "上面", "杯子"), ("colour", "红", "杯子")}),
        ("墙上的画", set()),
        ("头上的红帽子", {("colour", "红", "帽子")}),
        ("系着红项圈的中年男人", {("colour", "红", "项圈"), ("state", "中年", "男人")}),
        ("一个小皮手提包", {("size", "小", "手提包"), ("material", "皮", "手提包")}),
        ("背着黑色书包的学生", {("action", "背", "学生"), ("colour", "黑", "书包")}),
        ("打着蓝色雨伞的女人", {("action", "撑", "女人"), ("colour", "蓝", "雨伞")}),
        ("打着电话的女人", set()),
        ("两只猫的眼睛", {("count", "两", "猫")}),
        ("一面大圆镜", {("size", "大", "镜"), ("state", "圆形", "镜")}),
        ("停在路边的生锈旧卡车", {("action", "停", "卡车"), ("state", "生锈", "卡车"), ("state", "旧", "卡车")}),
        ("树后面的高大石塔", {("relation", "后面", "石塔"), ("size", "高", "石塔"), ("material", "石", "塔")}),
        ("抱着孩子微笑的女人", {("action", "抱", "女人"), ("state", "微笑", "女人")}),
        ("弹吉他的男子", {("action", "弹吉他", "男子")}),
        ("一头黑白奶牛", {("colour", "黑", "奶牛"), ("colour", "白", "奶牛")}),
        ("灰蓝色毛衣", set()),
        ("黑白照片", set()),
    ],
)
def test_chinese_attributes_belong_to_the_noun_that_they_are_said_of(text, read):
    (phrase,) = chinese.parse([text])
    assert {(slot.family, slot.value.id, slot.noun) for slot in phrase.slots} == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("two yellow taxis", {"two taxi", "yellow taxi"}),
        ("a white house with a red roof", {"white house", "red roof"}),
        ("the White House with a red roof", {"red roof"}),
        ("three wine glasses", {"three glasses"}),
        ("two glasses", set()),
        ("a group of four teenagers", {"four teenager"}),
        ("a large round mirror", {"large mirror", "round mirror"}),
        ("a street with houses on both sides", set()),
    ],
)
def test_english_attributes_belong_to_the_noun_that_they_are_said_of(text, read):
    (phrase,) = english.parse([text])
    assert {f"{phrase.text[slot.start : slot.end]} {slot.noun}" for slot in phrase.slots} == read


def test_one_of_two_chinese_colours_is_exchanged_for_neither_of_them():
    (phrase,) = chinese.parse(["一只黑白相间的猫"])
    written = {chinese.render(phrase, {0: option}) for option in chinese.options(phrase.slots[0])}
    assert "一只棕白相间的猫" in written and not {"一只白白相间的猫", "一只黑白相间的猫"} & written


def test_a_measured_chinese_word_is_written_in_the_form_that_the_expressions_have():
    weights = measure(["一个红色方格盒子", "一个蓝色圆点盒子"], "zh", smooth=0.0)["pattern"]
    (phrase,) = chinese.parse(["一个白色条纹盒子"])
    pattern = next(slot for slot in phrase.slots if slot.family == "pattern")
    assert {option.text for option in chinese.options(pattern, weights)} == {"方格"}
    assert "格子" in {option.text for option in chinese.options(pattern)}


def test_what_an_overlapping_box_of_the_same_kind_bears_is_not_used():
    inside = [0.0, 0.0, 0.2, 0.5]
    groups, _ = run(*[[("a red car", LEFT), ("a navy car", inside)]] * 20)
    used = {negative["text"] for sample in groups for negative in sample[0]}
    assert "a green car" in used and not used & {
        "a navy blue car",
        "a blue car",
        "a dark blue car",
        "a royal blue car",
        "a black car",
    }


def test_positives_that_contradict_each_other_or_repeat_are_not_used():
    _, rejects = run(
        [("a red car", LEFT), ("a green car", LEFT)],
        [("a red car", LEFT), ("A red car.", LEFT)],
        [("a large small red box", LEFT)],
    )
    assert [(reject.uid[-1], reject.item, reject.reason) for reject in rejects] == [
        ("0", "negatives[0]", "contradiction"),
        ("0", "negatives[1]", "contradiction"),
        ("1", "negatives[1]", "duplicate"),
        ("2", "negatives[0]", "contradiction"),
    ]


def test_odd_regions_are_refused_with_a_reason_and_the_sample_survives():
    outcome = HardNegatives()(table([(None, LEFT), ("  ", LEFT), ("ein roter Ball", LEFT, "de"), ("🎈", LEFT)], []))
    assert outcome.kept["negatives"].to_pylist() == [[[], [], [], []], []]
    assert [reject.reason for reject in outcome.rejects] == ["no_text", "no_text", "language", "no_attribute"]
    assert outcome.kept.schema.field("negatives").type == NEGATIVES


def test_null_regions_are_no_regions():
    batch = pa.table({"uid": ["a"], "regions": pa.array([None], REGIONS)})
    assert HardNegatives()(batch).kept["negatives"].to_pylist() == [[]]


def test_the_same_sample_gives_the_same_negatives_whatever_its_batch():
    alone = HardNegatives()(table([("a red car", LEFT)])).kept["negatives"].to_pylist()[0]
    together = HardNegatives()(table([("a red car", LEFT)], [("a blue wooden box", LEFT)])).kept["negatives"].to_pylist()[0]
    assert alone == together


def test_families_with_few_words_come_in_when_groups_are_spread():
    groups, _ = run(*[[("a large open red wooden box", LEFT)]] * 10, spread=1.0)
    assert {negative["family"] for sample in groups for negative in sample[0]} == {"size", "state", "colour", "material"}


def test_a_bare_noun_gets_an_unlikely_colour_only_on_request():
    groups, _ = run([("a dog", LEFT), ("一只猫", RIGHT), ("a car", LEFT)], insert_when_bare=True)
    dogs, cats, cars = groups[0]
    assert len(dogs) == len(cats) == 10 and cars == []
    assert all(negative["text"].endswith(" dog") and negative["flags"] == ["inserted"] for negative in dogs)
    assert not any(word in negative["text"] for negative in dogs for word in ("black", "brown", "white"))


def test_one_family_per_negative_unless_more_are_allowed():
    text = "a small red wooden box with a shiny metal lid"
    assert all(len(judge(text, negative["text"], "en").families) == 1 for negative in group(text, spread=1.0))
    groups, _ = run(*[[(text, LEFT)]] * 10, families_changed=2)
    assert max(len(judge(text, negative["text"], "en").families) for sample in groups for negative in sample[0]) == 2


def test_replacements_follow_a_given_distribution():
    words = {
        word: 1.0 for word in ["red", "blue", "green", "yellow", "black", "white", "orange", "purple", "pink", "brown", "grey"]
    }
    groups, _ = run(*[[("a red cube", LEFT)]] * 5, distribution={"colour": words})
    used = {negative["text"].split()[1] for sample in groups for negative in sample[0]}
    assert used == set(words) - {"red"}


def test_a_negative_weight_and_an_unknown_family_are_errors():
    with pytest.raises(ValidationError, match=r"distribution\.colour\.red"):
        HardNegatives(distribution={"colour": {"red": -1.0}})
    with pytest.raises(ValidationError):
        HardNegatives(families=("flavour",))


def test_elsewhere_means_that_nothing_speaks_against_it():
    def flagged(text, other):
        groups, _ = run(*[[(text, LEFT), (other, RIGHT)]] * 12, families=("colour",))
        return {n["text"] for sample in groups for n in sample[0] if n["flags"]}

    assert flagged("a small red car", "a small blue car") == {"a small blue car"}
    assert flagged("a small red car", "a large blue car") == set()
    assert flagged("two red cars", "a blue car") == set()
    assert flagged("two red cars", "two blue cars") == {"two blue cars"}
    assert flagged("一个红色的球", "三个蓝色的球") == set()


def test_denials_take_places_on_request():
    groups, _ = run(*[[("a small red wooden box", LEFT), ("一个红色的球", RIGHT)]] * 10, negations=1)
    for english_ones, chinese_ones in groups:
        assert len(english_ones) == len({n["text"] for n in english_ones}) == 10
        (denied,) = (n for n in english_ones if n["flags"] == ["negation"])
        assert denied["text"] in (
            "a small wooden box that is not red",
            "a small red box that is not made of wood",
        )
        assert [n["text"] for n in chinese_ones if n["flags"]] == ["一个不是红色的球"]
    assert not any(negative["flags"] for negative in group("一把蓝白条纹的雨伞", negations=1))  # 蓝白不是条纹 is no Chinese


def test_a_table_of_two_families_hides_the_positive_among_few_words():
    groups, _ = run(
        *[[("a small red box", LEFT)]] * 30,
        families_changed=2,
        distribution={
            "colour": dict.fromkeys(("red", "blue", "green", "black", "white", "pink"), 1.0),
            "size": {"small": 1, "large": 1},
        },
    )
    judged = [judge("a small red box", negative["text"], "en").families for sample in groups for negative in sample[0]]
    assert 0.2 < sum("size" in families for families in judged) / len(judged) < 0.8


def test_a_recipe_can_prefer_a_family():
    def share(**settings):
        groups, _ = run(*[[("a red wooden box", LEFT)]] * 40, **settings)
        families = [negative["family"] for sample in groups for negative in sample[0]]
        return families.count("material") / len(families)

    assert share(mix={"material": 20.0}) > share() + 0.2


def test_diff_span_covers_whole_words_and_is_never_empty_for_different_texts():
    assert diff_span("a red car", "a reddish car") == (2, 9, "red")
    assert diff_span("a red car", "an orange car") == (0, 9, "a red")
    assert diff_span("a red car", "a car") == (2, 5, "red car")
    assert diff_span("a red car", "a red car") == (0, 0, "")
    assert diff_span("红色的车", "蓝色的车") == (0, 1, "红")
    assert diff_span("", "a car") == (0, 5, "")


@pytest.mark.parametrize("uid", range(4))
@pytest.mark.parametrize(
    ("text", "absurd"),
    [
        ("a boy kicking a ball", {"wearing", "riding"}),
        ("a chair with metal wheels", {"knitted", "denim", "lace", "fur", "wool"}),
        ("a brick building", {"fur", "wax", "knitted", "lace", "cork"}),
        ("a small cat sitting behind a large dog", {"inside"}),
        ("一只正在奔跑的金毛犬", {"写字", "弹钢琴", "骑车", "看书"}),
        ("一只小猫站在大狗后面", {"里面", "中间"}),
    ],
)
def test_what_nothing_of_the_kind_is_or_does_is_no_negative(text, absurd, uid):
    groups, _ = run(*[[]] * uid, [(text, LEFT)])
    assert not absurd & {negative["text"][negative["start"] : negative["end"]] for negative in groups[uid][0]}


@pytest.mark.parametrize("uid", range(4))
@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("a girl with red hair", {"orange", "brown"}),
        ("a man with a grey beard", {"white", "silver"}),
        ("the calm blue sea", {"green", "grey", "turquoise"}),
        ("灰色的胡子", {"白色", "银色"}),
        ("一只棕色的泰迪犬", {"红色", "橙色"}),
    ],
)
def test_colours_that_such_things_share_are_no_negatives_of_each_other(text, alike, uid):
    groups, _ = run(*[[]] * uid, [(text, LEFT)])
    assert len(groups[uid][0]) == 10
    assert not alike & {negative["text"][negative["start"] : negative["end"]] for negative in groups[uid][0]}


@pytest.mark.parametrize("text", ["a rusty iron gate", "a transparent plastic bag", "一扇生锈的铁门", "一个透明塑料袋"])
def test_a_material_that_another_word_gives_away_is_not_changed(text):
    groups, rejects = run([(text, LEFT)])
    assert groups[0][0] == [] and rejects[0].reason in ("too_few", "no_attribute")


def test_a_rusty_gate_may_change_its_colour():
    assert {negative["family"] for negative in group("a rusty iron gate with a red handle")} <= {"colour", "state"}


def test_words_that_hardly_describe_anything_stand_in_few_of_the_ten():
    groups, _ = run(*([("a red ball", LEFT)] for _ in range(60)))
    texts = [negative["text"] for (group,) in groups for negative in group]
    rare = [
        text
        for text in texts
        if text.split()[1] in ("lavender", "khaki", "teal", "maroon", "cyan", "coral", "bronze", "magenta")
    ]
    assert len(texts) == 600 and len(rare) < 12
