"""Presets, overrides, and errors that name the mistake."""

import pytest

from fgclip2_train.config import PRESETS, load_settings
from fgclip2_train.data.order import fixed_turn_at
from fgclip2_train.setup import start_from

NEEDED = ["stage=2", "out=x"]


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
@pytest.mark.parametrize("stage", [1, 2])
def test_every_preset_is_valid_in_both_stages(preset, stage):
    assert load_settings(preset, [f"stage={stage}", "out=x"]).stage == stage


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"optimizer\.weight_decy: no such setting\. Did you mean optimizer\.weight_decay\?"):
        load_settings("official", [*NEEDED, "optimizer.weight_decy=0.1"])
    with pytest.raises(ValueError, match=r"batchsize: no such setting\. Did you mean batch\?"):
        load_settings("official", [*NEEDED, "batchsize=3"])


def test_a_wrong_value_names_key_and_value():
    with pytest.raises(ValueError, match=r"batch: .*greater than or equal to 1 \(found 0\)"):
        load_settings("tiny", [*NEEDED, "batch=0"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("batch=true", r"batch: must be a valid integer.*\(found 'true'\)"),
        ("steps=yes", r"steps: must be a valid integer"),
        ("optimizer.lr=.inf", r"optimizer\.lr: must be a finite number"),
        ("optimizer.eps=0", r"optimizer\.eps: must be greater than 0"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer\.betas\.1: must be less than 1"),
        ("loss.weights.fgv=-1", r"loss\.weights\.fgv: must be greater than or equal to 0"),
        ("loss.weights.fgv=.nan", r"loss\.weights\.fgv: must be a finite number"),
        ("loss.threshold_clamp=[5, 0]", r"loss\.threshold_clamp: \[least, most\], and 5\.0 is above 0\.0"),
        ("model.logit_scale=1000", r"model\.logit_scale: must be less than or equal to 20"),
        ("seed=99999999999999999999", r"seed: must be less than"),
        ("data.languages={en: -1, zh: 2}", r"data\.languages\.en: must be greater than or equal to 0"),
        ("data.sources={a: {shards: x, weight: 0}}", r"data\.sources\.a\.weight: must be greater than 0"),
        ("data.sources={a: {shards: x, languages: {en: 0}}}", r"data\.languages: none has a weight above 0 for a"),
        ("precision=fp23", r"precision: must be 'fp32' or 'bf16' \(found 'fp23'\)\. Did you mean fp32\?"),
        (
            "data.patches=9999999",
            r"data\.patches: must be less than or equal to 16384 or 'official' or 'bucketed' \(found 9999999\)",
        ),
        ("evaluate={every: 1, patches: 20000}", r"evaluate\.patches: must be less than or equal to 16384"),
        ("data.workers=9999999", r"data\.workers: must be less than or equal to 1024"),
        ("data.texts.max_regions=9999999", r"data\.texts\.max_regions: must be less than or equal to 1000"),
        ("data.pad_regions_to=9999999", r"data\.pad_regions_to: must be less than or equal to 65536"),
        ("data.languages={en: 1e300}", r"data\.languages\.en: must be less than or equal to 10"),
        ("threads=9999999", r"threads: must be less than or equal to 1024"),
        ("log_every=99999999999999999999", r"log_every: must be less than or equal to 100000"),
        ("loss.weights.fgv=1e300", r"loss\.weights\.fgv: must be less than or equal to 1000000"),
        ("loss.tic_remove_above=-5", r"loss\.tic_remove_above: must be greater than or equal to -1"),
        ("optimizer.lr=1e300", r"optimizer\.lr: must be less than or equal to 1 "),
        ("model.vocabulary=99999999999999999999", r"model\.vocabulary: must be less than or equal to 1000000"),
        ("data.shards=[1, 2]", r"data\.shards\.0: must be a valid string \(found 1\)"),
        ("data.shards=5", r"data\.shards: must be a valid string or a valid list \(found 5\)"),
        ("data.sources={a: {shards: [x, 3]}}", r"data\.sources\.a\.shards\.1: must be a valid string \(found 3\)"),
        ("data.sources={1: {shards: 5}}", r"data\.sources: must be a valid string \(found 1\)"),
        ("optimizer.betas=[a, b]", r"optimizer\.betas\.0: must be a valid number"),
        ("data=5", r"data: must be a mapping of settings \(found 5\)"),
        ("data.patches=bucketd", r"data\.patches: must be .*'bucketed' \(found 'bucketd'\)\. Did you mean bucketed\?"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_before_any_work_in_one_line(wrong, said):
    with pytest.raises(ValueError, match=rf"^command line: {said}[^\n]*$"):
        load_settings("tiny", [*NEEDED, wrong])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["data.sources={shards: {shards: x}}", "data.shards=y"], "data.shards is itself a source"),
        (["data.shards=x", "data.mixing=turns", "data.languages={en: 0.123, zh: 1}"], "no round of at most 60 whole turns"),
        (["loss.weights={short: 0, long: 0}", "stage=1"], "every term of stage 1 has the weight 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        load_settings("tiny", [*NEEDED, *wrong])


def test_a_mistake_is_told_with_the_file_that_holds_it(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: official\nlog_every: 0\nstages: {2: {bach: 3}}")
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {tmp_path / 'base.yaml'}\nseed: -1")
    with pytest.raises(ValueError) as told:
        load_settings(own, [*NEEDED, "batch=0"])
    named = {line.split(": ")[1]: line.split(": ")[0].rsplit("/", 1)[-1] for line in str(told.value).splitlines()}
    assert named == {"log_every": "base.yaml", "bach": "base.yaml", "seed": "own.yaml", "batch": "command line"}


def test_a_preset_among_the_settings_would_not_be_the_one_that_is_trained_by():
    with pytest.raises(ValueError, match=r"^preset is no setting but what settings begin with: --preset official$"):
        load_settings("fineloom", [*NEEDED, "preset=official"])


def test_a_misspelt_stage_names_the_nearest_setting():
    with pytest.raises(ValueError, match=r"stag: no such setting. Did you mean stage\?"):
        load_settings("scratch", ["stag=1", "out=x"])


def test_a_setting_without_default_is_asked_for_in_one_short_line():
    with pytest.raises(ValueError, match=r"scratch.yaml: out: not given, and it has no default$"):
        load_settings("scratch", ["stage=1"])


def test_an_unknown_preset_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"no preset 'offical'\. Did you mean official\?"):
        load_settings("offical", NEEDED)


def test_the_stage_must_be_chosen():
    with pytest.raises(ValueError, match="say which stage"):
        load_settings("official", ["out=x"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch: [1,", "not YAML"),
        ("- batch\n- 3", "settings are written `key: value`"),
        ("stages: 3", "`stages` holds them by stage"),
        ("stages: {2: 3}", "`stages` holds them by stage"),
        ('stages: {"2": {batch: 3}}', "stages: there are 1 and 2, and no '2'"),
        ("extends: {own}", "extends .*, which extends it"),
        ("batch: 3\nout: \xff", "not YAML"),
    ],
)
def test_a_preset_file_that_is_none_is_named(text, said, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_bytes(text.replace("{own}", str(file)).encode("latin-1"))
    with pytest.raises(ValueError, match=rf"own\.yaml: .*{said}"):
        load_settings(file, NEEDED)


def test_an_override_that_is_no_yaml_is_shown():
    with pytest.raises(ValueError, match=r"'\{en: 1' is not a value: lists are written"):
        load_settings("tiny", [*NEEDED, "data.languages={en: 1"])


def test_a_misspelt_setting_of_a_source_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"weigth: no such setting\. Did you mean data\.sources\.laion\.weight\?"):
        load_settings("tiny", [*NEEDED, "data.sources.laion.shards=x", "data.sources.laion.weigth=2"])


def test_scientific_notation_is_a_number():
    assert load_settings("official", [*NEEDED, "optimizer.lr=1e-5"]).optimizer.lr == 1e-5


def test_languages_are_replaced_and_not_merged():
    assert load_settings("official", [*NEEDED, "data.languages={en: 1}"]).data.languages == {"en": 1}


@pytest.mark.parametrize("stage", [1, 2])
def test_what_a_file_says_outranks_what_it_extends(stage, tmp_path):
    """Also where that says it of one stage: whoever writes a language's share means it."""
    (tmp_path / "base.yaml").write_text("extends: official\nstages: {1: {log_every: 3}, 2: {log_every: 4}}")
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {tmp_path / 'base.yaml'}\ndata: {{languages: {{en: 5, zh: 1}}}}\nstages: {{2: {{epochs: 9}}}}")
    settings = load_settings(own, [f"stage={stage}", "out=x"])
    assert settings.data.languages == {"en": 5, "zh": 1} and settings.log_every == stage + 2
    assert settings.data.mixing == ("turns" if stage == 1 else "batch") and settings.epochs == (1 if stage == 1 else 9)


def test_the_released_first_stage_takes_chinese_at_every_third_step_and_the_second_starts_from_siglip():
    first, second = (load_settings("official", [f"stage={stage}", "out=x"]) for stage in (1, 2))
    assert first.data.mixing == "turns" and [fixed_turn_at(step, first.data.languages) for step in range(4)] == [
        "zh",
        "en",
        "en",
        "zh",
    ]
    assert second.data.mixing == "batch" and second.data.languages == {"zh": 1, "en": 1}  # the published sets are of one size
    assert second.model.start == "google/siglip2-base-patch16-naflex"


@pytest.mark.parametrize("preset", ["paper", "fineloom"])
def test_a_second_stage_that_goes_on_from_the_first_must_be_told_from_which(preset):
    with pytest.raises(
        ValueError, match=rf"preset {preset}: stage 2 starts from stage 1: model\.start=<its out>/checkpoints/last"
    ):
        start_from(load_settings(preset, NEEDED), None)


def test_a_batch_is_cut_into_equal_parts_only():
    with pytest.raises(ValueError, match="batch=10 cannot be cut into accumulate=4 equal parts"):
        load_settings("official", [*NEEDED, "batch=10", "accumulate=4"])


def test_paper_and_official_differ_where_the_paper_does():
    official, paper = load_settings("official", NEEDED), load_settings("paper", NEEDED)
    assert (official.loss.weights.fgv, paper.loss.weights.fgv) == (0.2, 0.1)
    assert (official.data.texts.region_languages, paper.data.texts.region_languages) == (["en"], ["en", "zh"])
    assert (official.optimizer.warmup, paper.optimizer.warmup) == (0.03, 300)
