import pyarrow as pa
import pytest

from operators.blocklist import Blocklist


def batch(*captions, urls=None):
    columns = {"uid": [str(i) for i in range(len(captions))], "captions": pa.array(captions, pa.list_(pa.string()))}
    return pa.table({**columns, "url": pa.array(urls or [None] * len(captions), pa.string())})


def refused(operator, table):
    return [(reject.uid, reject.reason, reject.detail) for reject in operator(table).rejects]


def test_latin_words_are_whole_words_in_any_case_and_width():
    operator = Blocklist(words=("ass", "Stock Photo"))
    table = batch(["a grassy class"], ["ＡＳＳ!"], ["nice stock photo."], ["stock photography"], None, [None, "fine"])
    assert refused(operator, table) == [("1", "blocked_word", "ass"), ("2", "blocked_word", "stock photo")]


def test_han_words_stand_anywhere():
    assert refused(Blocklist(words=("赌博",)), batch(["网上赌博平台"], ["赌一把"])) == [("0", "blocked_word", "赌博")]


def test_a_word_is_found_however_it_is_spaced_hidden_or_in_which_script():
    operator = Blocklist(words=("stock photo", "casino", "赌博"))
    table = batch(["stock\n photo"], ["cas\u200bi\u00adno"], ["_Casino_"], ["網上賭博"], ["赌\ufeff博"], ["casinos"])
    assert [uid for uid, *_ in refused(operator, table)] == ["0", "1", "2", "3", "4"]


def test_a_host_is_the_one_that_is_asked():
    urls = ["http://中文.example/", "http://xn--fiq228c.example/", "http://a。spam。example/", "http://中文.other/"]
    operator = Blocklist(hosts=("中文.example", ".spam.example"))
    assert [uid for uid, *_ in refused(operator, batch(*[["x"]] * 4, urls=urls))] == ["0", "1", "2"]


@pytest.mark.parametrize("settings", [{}, {"words": ("",)}, {"hosts": (" .",)}])
def test_a_filter_without_a_list_is_refused(settings):
    with pytest.raises(ValueError, match="nothing to look for: give words, word_file, hosts or host_file"):
        Blocklist(**settings)


def test_all_lets_a_sample_live_that_has_one_clean_caption():
    table = batch(["bad one", "good one"], ["bad", "bad too"], [])
    assert [uid for uid, *_ in refused(Blocklist(words=("bad",)), table)] == ["0", "1"]
    assert [uid for uid, *_ in refused(Blocklist(words=("bad",), when="all"), table)] == ["1"]


def test_hosts_and_all_below_them():
    urls = ["https://img.spam.example/1.jpg", "https://notspam.example/1.jpg", "http://spam.example.:80/a", "http://[", None]
    table = batch(*[["x"]] * 5, urls=urls)
    assert refused(Blocklist(hosts=("Spam.example",)), table) == [
        ("0", "blocked_host", "spam.example"),
        ("2", "blocked_host", "spam.example"),
    ]


def test_the_files_content_is_part_of_the_settings_and_not_its_place(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("# words\nbad   # very\n\n坏\n", "utf-8")
    two.write_text("坏\nbad\n", "utf-8")
    first, second = Blocklist(word_file=str(one)), Blocklist(word_file=str(two))
    assert first.model_dump() == second.model_dump() and first.content
    assert refused(first, batch(["BAD"], ["好"])) == [("0", "blocked_word", "bad")]
    two.write_text("worse", "utf-8")
    assert Blocklist(word_file=str(two)).content != first.content


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_list_that_cannot_be_read_is_named_before_work_begins(tmp_path, content):
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.txt"):
        Blocklist(word_file=str(file))
