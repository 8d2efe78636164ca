import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from demo import lessons, school, seeing, train_vlm
from demo.model import build, save
from demo.scenes import render


@pytest.fixture(scope="module")
def tokenizer():
    return school.make_tokenizer(scenes=30)


@pytest.fixture(scope="module")
def model(tokenizer):
    shape = {"hidden": 64, "layers": 2, "heads": 2, "vision_hidden": 64, "vision_depth": 2}
    return build(tokenizer, **shape, seed=0, all_attend=True, theta=1e4).eval()


def test_the_batched_arithmetic_is_transformers_own(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    teacher = school.School(tokenizer, 1, 1, 1, seed=0)
    for size in [(112, 56), (140, 308), (84, 84)]:
        scene = render(5, size=size)
        lesson = lessons.long_caption(scene, "zh", random.Random(0))
        before, after = school.chat(lesson)
        inputs = processor(text=[before + after], images=[scene.image], return_tensors="pt")
        ids, places, start, _ = teacher.encode(lesson, *size)
        assert inputs["input_ids"][0].tolist() == ids.tolist()
        with torch.no_grad():
            theirs = network(**inputs).logits[0]
            seen = seeing.look(network, torch.from_numpy(np.array(scene.image))[None])
            *_, hidden = seeing.read(
                network,
                torch.from_numpy(ids)[None],
                torch.from_numpy(places).long()[:, None],
                seen,
                tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            )
            ours = network.lm_head(hidden)[0]
        assert torch.allclose(ours, theirs, atol=2e-4), (ours - theirs).abs().max()
        assert 0 < start < len(ids)


def test_the_chat_is_what_the_template_writes(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    for lesson in (
        lessons.verify(render(1), "en", random.Random(0), render(2)),
        lessons.translate(render(1), random.Random(0)),
    ):
        user = [{"type": "image"}] * lesson.picture + [{"type": "text", "text": lesson.user}]
        messages = [{"role": "system", "content": lesson.system}, {"role": "user", "content": user}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == school.chat(lesson)[0]


def test_lessons_ask_what_the_prompts_ask():
    from prompts.load import load

    scene, other, rng = render(3), render(4), random.Random(0)
    for name in school.PROMPTS:
        assert lessons.system_text(name) == load(name).system.strip()
    assert lessons.long_caption(scene, "en", rng).user == load("long_caption_en").render({})[1]
    assert lessons.long_caption(scene, "zh", rng).user == load("long_caption_zh").render({})[1]
    assert lessons.numbered(["a b", "c"]) == load("ground").render({"phrases": ["a b", "c"]})[1]
    assert lessons.numbered(["A b.", "C."]) == load("check_sentences").render({"sentences": ["A b.", "C."]})[1]
    verify = lessons.verify(scene, "zh", rng, other).user
    box = [int(value) for value in verify[6 : verify.index("]")].split(",")]
    texts = [line.split(". ", 1)[1] for line in verify.splitlines()[1:]]
    assert verify == load("verify_negatives").render({"box": box, "texts": texts})[1]
    assert load("translate_en_zh").render({"text": "A cup.", "glossary": []})[1] == "原文：A cup."
    assert load("translate_zh_en").render({"text": "杯子。"})[1] == "杯子。"
    assert (
        load("hard_negatives").render({"families": "colour, count", "phrase": "a cup"})[1]
        == "Kinds: colour, count\nPhrase: a cup"
    )
    assert load("judge_translation").render({"source": "A", "translation": "甲"})[1] == "English: A\nChinese: 甲"


def test_fixed_prompts_are_short_and_numbers_are_one_token(tokenizer):
    for name in school.PROMPTS:
        count = len(tokenizer(lessons.system_text(name), add_special_tokens=False)["input_ids"])
        assert count <= 40, (name, count)
    ids = tokenizer("[12, 345, 7]", add_special_tokens=False)["input_ids"]
    assert {tokenizer.convert_ids_to_tokens(i) for i in ids} >= {"12", "345", "7"}
    for text in (
        '{"boxes":[{"phrase":1,"bbox_2d":[12,345,7,80]}]}',
        "三个红色条纹小球，位于左上方。",
        "Even light falls, €5 – ünïcode",
    ):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_answers_are_true_and_in_the_schema():
    from prompts.load import load

    for seed in range(60):
        rng = random.Random(seed)
        scene, other = render(seed), render(seed + 1000)
        for language in ("en", "zh"):
            grounded = lessons.ground(scene, language, rng, other)
            phrases = [line.split(". ", 1)[1] for line in grounded.user.splitlines()]
            boxes = json.loads(grounded.answer)["boxes"]
            assert all(tuple(box["bbox_2d"]) in {thing.box for thing in scene.things} for box in boxes)
            for box in boxes:
                thing = next(t for t in scene.things if t.box == tuple(box["bbox_2d"]))
                assert (thing.shape if language == "en" else thing.short("zh")[-1]) in phrases[box["phrase"] - 1].lower()
            assert len(json.loads(lessons.verify(scene, language, rng, other).answer)["verdicts"]) == 10
            assert json.loads(lessons.verify(None, language, rng, other).answer)["verdicts"] == [False] * 10
            assert json.loads(lessons.ground(None, language, rng, other).answer) == {"boxes": []}
            texts = json.loads(lessons.rewrite(scene, language, rng).answer)["texts"]
            assert len(set(texts)) == load("hard_negatives").answer_schema["properties"]["texts"]["minItems"]
            checked = lessons.check(scene, language, rng, other)
            assert len(json.loads(checked.answer)["verdicts"]) == len(checked.user.splitlines())


def test_the_abstaining_answer_is_refused_by_recaption():
    from operators.base import Answer
    from operators.recaption import Recaption

    for language, text in lessons.NOTHING.items():
        operator = Recaption(language=language)
        operator.setup()
        answer = Answer(f'{{"caption":"{text}"}}', "stop", 1, 1, "x")
        assert operator.judge(answer)[1] is not None


def test_true_captions_pass_recaption():
    from operators.base import Answer
    from operators.recaption import Recaption

    refused = []
    for language in ("en", "zh"):
        operator = Recaption(language=language)
        operator.setup()
        for seed in range(60):
            lesson = lessons.long_caption(render(seed), language, random.Random(seed))
            _, finding, dropped = operator.judge(Answer(lesson.answer, "stop", 1, 1, "x"))
            if finding or dropped:
                refused.append((finding, dropped, lesson.answer))
    assert not refused, refused[:5]


def test_facts_name_the_thing_under_each_token():
    for seed in range(20):
        scene = render(seed)
        facts, _, named = seeing.facts_of(scene, scene.width, scene.height)
        assert (named >= 0).all()
        columns = scene.width // seeing.CELL
        for thing in scene.things:
            for x1, y1, x2, y2 in thing.instances:
                token = (y1 + y2) // 2 // seeing.CELL * columns + (x1 + x2) // 2 // seeing.CELL
                assert facts[token, 0] >= 0
    nothing = seeing.facts_of(None, 112, 112)
    assert (nothing[0] == -1).all() and (nothing[2] == -1).all()


def test_notes_stand_where_something_can_be_known(tokenizer):
    """A statement's truth after its last word; a thing before the sentence, or the box, that tells of it."""
    teacher = school.School(tokenizer, 1, 1, 1, seed=0)
    scene, other = render(11, size=(168, 168)), render(12)
    truth, thing, place = 0, slice(1, 6), 6

    def noted(lesson):
        row = teacher.encode(lesson, scene.width, scene.height)
        tokens = [tokenizer.decode(row.ids[int(note[0])]) for note in row.notes]
        backs = [tokenizer.decode(row.ids[int(note[1])]) if note[1] >= 0 else None for note in row.notes]
        return row, [(token, note[2:]) for token, note in zip(tokens, row.notes, strict=True)], backs

    lesson = lessons.verify(scene, "zh", random.Random(1), other)
    _, notes, backs = noted(lesson)
    verdicts = [float(word == "true") for word in lesson.answer[13:-2].split(",")]
    assert notes[0][0] == "]" and min(notes[0][1][thing]) >= 0
    assert [note[truth] for _, note in notes[1:11]] == verdicts and notes[1][0] == "\n" and notes[10][0] == "<|im_end|>"
    assert [(token, note[place]) for token, note in notes[11:]] == [('{"verdicts":[', 0)] + [(",", i) for i in range(1, 10)]
    assert backs == [None] * 11 + ["\n"] * 9 + ["<|im_end|>"]

    row, notes, _ = noted(lessons.long_caption(scene, "en", random.Random(1)))
    for number, mine in enumerate(scene.things):
        assert notes[number][1][thing] == seeing.facts_of_thing(mine)
        assert [round(value * seeing.SIDE) for value in notes[number][1][7:]] == list(mine.box)
        assert notes[number][0] == ('{"caption":"' if number == 0 else ".")
        after = tokenizer.decode(row.ids[int(row.notes[number][0]) + 1 :])
        assert mine.colour in after.split(".")[0]

    lesson = lessons.ground(scene, "en", random.Random(1), other)
    row, notes, _ = noted(lesson)
    answer = json.loads(lesson.answer)["boxes"]
    # The phrase's own number and the four of its box are known where it ends.
    behind = [int(note[1]) for note in row.notes if note[1] >= 0]
    ends = [number for number, end in enumerate(row.ids[: row.start]) if tokenizer.decode(end) in ("\n", "<|im_end|>")]
    ends = ends[-2 - len(lesson.user.split("\n")) : -2]
    assert behind and behind == [ends[box["phrase"] - 1] for box in answer for _ in range(5)]


def test_glances_are_where_the_layer_looks(tokenizer):
    model = build(tokenizer, hidden=64, layers=2, heads=4, vision_hidden=64, vision_depth=1, seed=0, all_attend=True).eval()
    language = model.model.language_model
    language.config._attn_implementation = "eager"
    ids, places = torch.randint(0, 200, (2, 9)), torch.arange(9).expand(3, 2, 9)
    out = language(input_ids=ids, position_ids=places, output_hidden_states=True, output_attentions=True, use_cache=False)
    row, token = torch.tensor([0, 1, 1]), torch.tensor([3, 0, 8])
    looks = seeing.glances(model, 1, out.hidden_states[1], places, row, token)
    assert torch.allclose(looks.exp(), out.attentions[1][row, 0, token], atol=1e-6)
    wanted = torch.zeros(3, 9, dtype=torch.bool)
    wanted[0, 1:3] = True  # the other two rows want nothing
    assert torch.allclose(seeing.missed(looks, wanted), -looks[0, 1:3].exp().sum().log())


def test_only_coordinates_may_be_missed_by_a_pixel(tokenizer):
    lesson = lessons.Lesson("ground", "1. a ball", '{"boxes":[{"phrase":1,"bbox_2d":[12,3,40,31]}]}')
    row = school.School(tokenizer, 1, 1, 1, seed=0).encode(lesson, 112, 112)
    batch = school.padded([row], 0, tokenizer.convert_tokens_to_ids(school.BOX))
    told = batch["targets"][batch["coordinates"]]
    assert tokenizer.convert_ids_to_tokens(told.tolist()) == ["12", "3", "40", "31"]


def test_a_few_steps_lower_the_loss(tokenizer):
    torch.manual_seed(0)
    shape = {"hidden": 64, "layers": 2, "heads": 2, "vision_hidden": 64, "vision_depth": 1}
    network = build(tokenizer, **shape, seed=0, all_attend=True, theta=1e4)
    trained = train_vlm.Trained(network, tokenizer, 64)
    batch = school.School(tokenizer, 2, 2, 2, seed=1).batch(0)
    optimizer = torch.optim.AdamW(trained.parameters(), 3e-3)
    history = []
    for _ in range(12):
        answers, auxiliary, _ = trained(batch)
        optimizer.zero_grad()
        (answers + auxiliary).backward()
        optimizer.step()
        history.append(float(answers.detach()))
    assert history[-1] < 0.7 * history[0]
    assert Image.fromarray(batch["pictures"][0].numpy()).size[0] % 28 == 0
