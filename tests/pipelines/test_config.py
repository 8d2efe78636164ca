import pytest
import yaml

from pipelines.config import ConfigError, load_recipe, recipe_names
from pipelines.run import Options, prepare
from pipelines.sources import SourceError

STAGES = {"download": {}, "measure": {"operators": {"size": {}, "text": {}}}, "select": {"keep": "width >= 64"}, "ground": {}}


@pytest.fixture
def write(tmp_path):
    def write(stages=STAGES, **top):
        body = {"recipe": "tiny", "sources": ["laion2b_en"], "model": {"name": "m"}, **top, "stages": stages}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(body, sort_keys=False))
        return path

    return write


def wrong(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_is_valid(name):
    assert load_recipe(name).name == name


def test_an_unknown_setting_names_file_key_and_the_nearest_valid_one(write):
    message = wrong(write({**STAGES, "ground": {"min_confidnce": 0.5}}))
    assert "tiny.yaml: stages.ground.min_confidnce: no such setting. Did you mean min_confidence (0.4)?" in message


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"downlaod": {}}, "stages.downlaod: no stage or operator 'downlaod'. Did you mean download?"),
        (
            {"measure": {"operators": {"sise": {}}}},
            "stages.measure.operators.sise: no stage or operator 'sise'. Did you mean size?",
        ),
        (
            {"measure": {"operators": {"size": {}}, "max_aspect": 3}},
            "stages.measure.max_aspect: no such setting beside `operators`",
        ),
        (
            {"measure": {"operators": {"phash": {}, "size": {}}, "size": {"min_side": 3}}},
            "settings belong to one of them, as in stages.measure.operators.size",
        ),
        ({"measure": {"operators": {"size": {}, "dedup": {}}}}, "only batch operators can share a stage"),
        ({"size": {}}, "stages.size: reads column 'width', which no stage before it writes. Put a `download` stage before it."),
        ({"download": {}, "select": {"keep": "widht > 3"}}, "width"),
        ({"download": {}, "select": {"keep": "__import__('os')"}}, "stages.select.keep"),
        ({"download": {"refuse_at_most": 2}}, "stages.download.refuse_at_most: expected a share between 0 and 1, found 2"),
        ({"download": {"timeout": "soon"}}, "stages.download.timeout: Input should be a valid number"),
        ({"download": {"resources": {"cpu": 1}}}, "stages.download.resources.cpu: no such setting. Did you mean cpus (1.0)?"),
        ({"ledger": {"operator": "download"}}, "stages.ledger: the name is taken by a folder of every run"),
        ({"download": {}, "x": {"operator": "no.such:Thing"}}, "stages.x: operator no.such:Thing: No module named"),
        ({"x": {"operator": "raising_operator:Thing"}}, "operator raising_operator:Thing: ZeroDivisionError: division by zero"),
        ({"x": {"operator": ":Thing"}}, "stages.x: operator :Thing: ValueError: Empty module name"),
        ({"x": {"operator": "pipelines.config:Resources"}}, "stages.x: pipelines.config:Resources is no operator"),
        ({"x": {"operator": ["size"]}}, 'stages.x.operator: expected a name (found ["size"])'),
        ({"x": {"operators": {}}}, "stages.x.operators: expected operators and their settings"),
        ({"x": {"operators": [], "min_side": 5}}, "stages.x.operators: expected operators and their settings"),
        ({"x": {"operators": "size"}}, 'and their settings, as in {size: {}, text: {}} (found "size")'),
        ({"x": {"operators": ["size", "size"]}}, '(found ["size", "size"])'),
        ({"x": {"operators": [{"size": {}}]}}, '(found [{"size": {}}])'),
        ({"../up": {"operator": "download"}}, "stages.../up: expected a name of letters, digits"),
        ({"source": {"operator": "download"}}, "stages.source: the name is taken"),
        ({"download": {}, "more": {"operator": "download"}}, "stages.more: the pictures were downloaded by an earlier stage"),
        ({"download": {}, "pack": {}, "size": {}}, "stages.size: stands after pack"),
        ({"download": {"resources": {"workers": 0}}}, "stages.download.resources.workers: expected a number of at least 1"),
        ({"download": {"resources": {"workers": [5, 2]}}}, "the smaller first (found [5, 2])"),
        ({"download": {"resources": {"memory_gb": float("inf")}}}, "stages.download.resources.memory_gb"),
    ],
)
def test_a_mistake_in_a_stage_stops_with_what_was_expected(write, stages, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "raising_operator.py").write_text("1 / 0")
    assert words in wrong(write(stages))


def test_a_model_stage_needs_a_model(write):
    assert "stages.ground asks a model, but the recipe has no `model`" in wrong(write(model=None))


def test_an_unknown_recipe_names_the_nearest(write):
    with pytest.raises(ConfigError, match="Did you mean demo"):
        load_recipe("dmeo")


def test_a_key_that_stands_twice_is_an_error(write):
    path = write()
    path.write_text(path.read_text() + "recipe: other\n")
    assert "the key 'recipe' stands twice" in wrong(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("description: café\n".encode("latin-1"), "tiny.yaml: not valid YAML: 'utf-8' codec"),
        (b"stages:\n\tdownload: {}\n", "line 2, column 1"),
        (b"? [a, b]\n: 1\n", "unhashable key"),
        (b"[" * 3000, "nested too deeply"),
        (b"recipe: tiny\nsources: &a [*a]\nstages: {}\n", "sources.0: Input should be a valid string (found [[...]])"),
    ],
)
def test_what_is_no_yaml_stops_with_the_file(write, content, words):
    path = write()
    path.write_bytes(content)
    assert words in wrong(path)


def test_anchors_are_filled_in_and_an_override_changes_one_place_only(write):
    path = write()
    top = "recipe: tiny\nsources: [laion2b_en]\nstages:\n  select: &s {keep: row < 7}\n  more: {<<: *s, operator: select}\n"
    more = "  last: {<<: *s, keep: row < 9, operator: select}\n  same: &t {operator: select, keep: row < 5}\n  too: *t\n"
    path.write_text(top + more)
    keep = {stage.name: stage.operator.keep for stage in load_recipe(path, ["too.keep=row < 3"]).stages[1:]}
    assert keep == {"select": "row < 7", "more": "row < 7", "last": "row < 9", "same": "row < 5", "too": "row < 3"}


def test_two_sources_of_one_name_would_give_samples_one_identity(write, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "links.yaml").write_text("format: jsonl\ntables: t.jsonl\ncolumns: {url: u}\n")
    sources = [str(tmp_path / folder / "links.yaml") for folder in "ab"]
    with pytest.raises(ConfigError, match=r"sources: .*a/links.yaml and .*b/links.yaml are both called links"):
        prepare(load_recipe(write({}, sources=sources)), tmp_path / "runs", Options())


def test_tables_without_rows_are_not_a_finished_run(write, tmp_path):
    (tmp_path / "t.csv").write_text("u,t\n")
    (tmp_path / "s.yaml").write_text(f"format: csv\ntables: {tmp_path}/t.csv\ncolumns: {{url: u}}\n")
    with pytest.raises(ConfigError, match="have no rows in their tables"):
        prepare(load_recipe(write({}, sources=[str(tmp_path / "s.yaml")])), tmp_path / "runs", Options())


def test_a_call_whose_tables_are_not_there_leaves_nothing_behind(write, tmp_path):
    (tmp_path / "s.yaml").write_text(f"format: csv\ntables: {tmp_path}/none-*.csv\ncolumns: {{url: u}}\n")
    with pytest.raises(SourceError, match="nothing matches"):
        prepare(load_recipe(write({}, sources=[str(tmp_path / "s.yaml")])), tmp_path / "runs", Options())
    assert not (tmp_path / "runs").exists()


def test_overrides_reach_every_level_and_are_checked_like_the_file(write):
    path = write()
    recipe = load_recipe(path, ["shard_size=7", "stages.select.keep=width >= 9", "ground.max_regions=3", "model.concurrency=2"])
    assert (recipe.shard_size, recipe.model.concurrency) == (7, 2)
    assert recipe.stage("select").operator.keep == "width >= 9"
    assert recipe.stage("ground").operator.max_regions == 3
    assert "no such setting. Did you mean shard_size" in wrong(path, "shard_sise=7")
    assert "no stage 'grond'. Did you mean ground?" in wrong(path, "stages.grond.max_regions=3")
    assert "no setting or stage 'grond'. Did you mean ground?" in wrong(path, "grond.max_regions=3")
    assert "expected key.sub=value" in wrong(path, "shard_size")
    for nothing in ("stages.download=", "ground.max_regions= "):  # which would be the defaults
        assert "nothing stands behind the `=`: null is no value" in wrong(path, nothing)


def test_a_stage_or_one_of_its_operators_can_be_left_out(write):
    path = write({**STAGES, "last": {"operator": "select", "keep": "aspect < 3"}})
    whole = [stage.name for stage in load_recipe(path).stages]
    fewer = load_recipe(path, ["stages.last=null", "measure.operators.text=null"])
    assert [stage.name for stage in fewer.stages] == [name for name in whole if name != "last"]
    assert list(fewer.stage("measure").operators) == ["size"]
    assert "no stage 'lst' to leave out. Did you mean last?" in wrong(path, "stages.lst=null")
    assert "no operator 'tekst' to leave out. Did you mean text?" in wrong(path, "measure.operators.tekst=null")
    assert "stages.last: 'aspect < 3': no column aspect" in wrong(path, "measure.operators.size=null")


def test_yaml_traps_vanish_because_settings_are_typed(write):
    """1e-3 is a string to YAML and 3 no float, yet both are the same setting."""
    plain = write({**STAGES, "ground": {"min_area": 0.001, "min_confidence": 1}})
    settings = load_recipe(plain).stage("ground").operator.model_dump()
    trapped = write({**STAGES, "ground": {"min_area": "1e-3", "min_confidence": 1.0}})
    assert load_recipe(trapped).stage("ground").operator.model_dump() == settings


def test_a_password_in_an_address_is_refused(write):
    assert "must not hold a password" in wrong(write(model={"name": "m", "base_url": "http://me:secret@host/v1"}))
    assert "secret" not in wrong(write(model={"name": "m", "base_url": "http://me:secret@host/v1"}))
