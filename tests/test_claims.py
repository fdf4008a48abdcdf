"""Claims: lists that are complete, verdicts that are computed, and every claim treated on exactly one page."""

import math
import re
from pathlib import Path

import pytest
import yaml

from lorabook.page import claims, lists
from lorabook.page.lists import ClaimError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ENTRY = {
    "id": "a",
    "where": "Theorem 1",
    "kind": "theorem",
    "statement": "s",
    "measured": "a distance",
    "band": [0, 1],
    "band_reason": "an upper bound",
    "probe": "another start",
}
JUDGED = {
    "right": "the other sign",
    "reading": "literally",
    "grade": "slip",
    "witness": {"printed": 1, "right": -1},
    "consequence": "The theorem stands.",
}
CASES = {
    "exact": {"scope": "exact"},
    "sampled": {},
    "constant": {"constant": "the factor n"},
    "proved": {"scope": "proved"},
    "fails": JUDGED | {"probe": None},
    "both": JUDGED,
    "never": {"reason": "A matter of history.", "band": None, "measured": None, "band_reason": None, "probe": None},
}


def entry(**changed):
    return {key: value for key, value in (ENTRY | changed).items() if value is not None}


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write a claim list of one's own, and read no other."""

    def write(entries, name="demo"):
        text = {"source": name, "title": "Demo & Co", "version": "v1.", "read": "2026-01-01", "claims": entries}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(text))
        lists.load.cache_clear(), lists._read.cache_clear()

    monkeypatch.setattr(lists, "LISTS", tmp_path)
    yield write
    lists.load.cache_clear(), lists._read.cache_clear()


@pytest.fixture
def demo(write):
    write([entry(id=name, **changed) for name, changed in CASES.items()])


# Verdicts


def test_inside_the_band_and_a_probe_outside_it_holds(demo):
    assert claims.check("demo.exact", value=0.5, probe=2.0).verdict == "holds"
    assert claims.check("demo.sampled", value=0.5, probe=2.0).verdict == "holds in the range tested"
    verdict = claims.check("demo.constant", value=0.5, probe=-0.1, constant=3.14159)
    assert verdict.verdict == "holds with a constant" and verdict.constant == "3.14"


def test_a_proof_that_goes_through_is_said_and_one_that_does_not_takes_the_verdict_back(demo):
    verdict = claims.check("demo.proved", value=0.5, probe=2.0, proof=(True, "every x in [0, 1]"))
    assert verdict.verdict == "holds" and verdict.lines()[0] == "Proved: every x in [0, 1]."
    data, metadata = verdict._repr_mimebundle_()
    assert "holds, proved</span>" in data["text/html"] and metadata["lorabook"]["proof"] == "every x in [0, 1]"
    assert (
        claims.Verdict(lists.find("demo.proved"), **{k: v for k, v in verdict.record().items() if k != "id"}) == verdict
    )
    verdict = claims.check("demo.proved", value=0.5, probe=2.0, proof=(False, "not near x = 1"))
    assert verdict.verdict == "holds in the range tested" and not verdict.proof
    assert verdict.note == "The proof did not go through: not near x = 1."
    assert not claims.check("demo.proved", value=5.0, probe=2.0, proof=(True, "every x")).proof


def test_outside_the_band_and_the_repair_inside_it_fails_as_printed(demo):
    assert claims.check("demo.fails", value=1.001, repair=1.0).verdict == "fails as printed"
    assert claims.check("demo.fails", value=math.inf, repair=0.0).verdict == "fails as printed"
    assert claims.check("demo.both", value=2.0, probe=3.0, repair=0.5).verdict == "fails as printed"


def test_a_verdict_that_is_made_to_fail_says_that_its_correction_is_missing(demo):
    verdict = claims.check("demo.exact", value=1.5, probe=2.0)
    assert verdict.verdict == "fails as printed" and verdict.value == "1.5"
    assert "No corrected statement was measured" in verdict.sentence()
    verdict = claims.check("demo.fails", value=1.5, repair=7.0)
    assert (
        verdict.verdict == "fails as printed"
        and "The corrected statement misses the band as well." in verdict.sentence()
    )
    assert not claims.check("demo.fails", value=1.5, repair=1.0).note


@pytest.mark.parametrize("probe", [0.0, 0.999, 1.0])
def test_a_counter_probe_inside_the_band_shows_nothing(demo, probe):
    for verdict in (
        claims.check("demo.exact", value=0.5, probe=probe),
        claims.check("demo.both", value=5.0, probe=probe, repair=0.5),
    ):
        assert verdict.verdict == "not testable here" and "The counter-probe lies in the band too" in verdict.sentence()


def test_where_print_and_repair_both_pass_the_setting_tells_nothing(demo):
    verdict = claims.check("demo.fails", value=0.5, repair=0.5)
    assert verdict.verdict == "not testable here" and "cannot be told apart" in verdict.sentence()
    for repair in (None, 2.0):
        assert "Nothing lay outside the band" in claims.check("demo.fails", value=0.5, repair=repair).sentence()


@pytest.mark.parametrize(
    "call, came",
    [
        (
            dict(identifier="demo.exact", value=0.5),
            r"demo\.exact: the list and the call disagree on whether there is a probe",
        ),
        (dict(identifier="demo.fails", value=2.0, probe=3.0, repair=0.5), "disagree on whether there is a probe"),
        (dict(identifier="demo.constant", value=0.5, probe=2.0), "disagree on whether there is a constant"),
        (dict(identifier="demo.exact", value=0.5, probe=2.0, constant=1.0), "disagree on whether there is a constant"),
        (
            dict(identifier="demo.exact", value=5.0, probe=2.0, repair=0.5),
            r"demo\.exact: a corrected statement was measured, but the list has none",
        ),
        (dict(identifier="demo.proved", value=0.5, probe=2.0), "disagree on whether there is a proof"),
        (dict(identifier="demo.exact", value=0.5, probe=2.0, proof=(True, "")), "disagree on whether there is a proof"),
        (dict(identifier="demo.exact", value=math.nan, probe=2.0), r"demo\.exact: a measured number is NaN"),
        (dict(identifier="demo.exact", value=0.5, probe=math.nan), "is NaN"),
        (dict(identifier="demo.fails", value=2.0, repair=math.nan), "is NaN"),
        (
            dict(identifier="demo.never", value=0.5, probe=2.0),
            r"demo\.never is marked as not testable: A matter of history\.",
        ),
        (dict(identifier="demo.other", value=0.5, probe=2.0), r"No claim list has the claim 'demo\.other'"),
        (dict(identifier="nobody.exact", value=0.5), r"There is no claim list nobody\.yml; the sources are demo"),
        (dict(identifier="exact", value=0.5), r"There is no claim list exact\.yml"),
        (dict(identifier="", value=0.5), r"There is no claim list \.yml"),
    ],
)
def test_a_check_that_shows_nothing_gets_one_sentence(demo, call, came):
    with pytest.raises(ClaimError, match=came) as raised:
        claims.check(**call)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_number_is_in_no_band(write, value):
    write([entry(band=[-math.inf, math.inf] if value < 0 else [2, math.inf])])
    verdict = claims.check("demo.a", value=value, probe=-math.inf)
    assert verdict.verdict == "fails as printed" and "inf, wanted" in verdict.sentence()


def test_the_edges_of_a_band_belong_to_it(write):
    write([entry(scope="exact", band=[1, 2])])
    for value in (1.0, 2.0):
        assert claims.check("demo.a", value=value, probe=math.nextafter(2.0, 3.0)).verdict == "holds"
    assert claims.check("demo.a", value=math.nextafter(1.0, 0.0), probe=5.0).verdict == "fails as printed"


def test_not_testable_gives_the_reason_of_the_list_and_only_that(demo):
    verdict = claims.not_testable("demo.never")
    assert verdict.verdict == "not testable here" and verdict.sentence() == "A matter of history."
    with pytest.raises(ClaimError, match=r"demo\.exact gives no reason why it could not be tested"):
        claims.not_testable("demo.exact")


# What a page shows and a program reads


@pytest.mark.parametrize(
    "band, floor, number, rounded",
    [
        ([0, 1], 1e-12, 0.123456, "0.123"),
        ([0, 1], 1e-12, 3e-16, "below 1e-12"),
        ([0, 1], 1e-12, 0.0, "below 1e-12"),
        ([0, 1], 1e-8, -3e-9, "below 1e-8"),
        ([0, 0], 1e-12, 0.0, "0"),
        ([0, 1], 1e-12, 1.234e-7, "1.23e-7"),
        ([0, 1], 1e-12, 1e9, "1e9"),
        ([0, 1], 1e-12, 1e-16, "below 1e-12"),
        ([0, 1], 1e-300, 1e-16, "1e-16"),
        ([0, 1], 1e-12, math.inf, "inf"),
    ],
)
def test_numbers_are_read_as_far_as_they_are_reproducible(write, band, floor, number, rounded):
    write([entry(band=band, floor=floor)])
    assert lists.find("demo.a").rounded(number) == rounded and lists.find("demo.a").rounded(None) == ""


def test_above_its_ceiling_a_number_is_read_as_a_bound(write):
    write([entry(ceiling=0.1)])
    read = lists.find("demo.a").rounded
    assert [read(0.412), read(-1.7), read(0.1)] == ["above 0.1", "above 0.1", "0.1"]


@pytest.mark.parametrize(
    "band, words",
    [
        ([0, 1e-8], "at most 1e-8"),
        ([0, 0], "exactly 0"),
        ([1, 1], "exactly 1"),
        ([2, math.inf], "at least 2"),
        ([0.5, 1.5], "between 0.5 and 1.5"),
        ([0.999999, 1.01], "between 1 and 1.01"),
        ([0.999999999, 1.000000001], "between 0.999999999 and 1.000000001"),
        ([-math.inf, 3], "at most 3"),
        ([0, math.inf], "at least 0"),
    ],
)
def test_bands_are_said_in_words(write, band, words):
    write([entry(band=band)])
    assert lists.find("demo.a").wanted() == words


def test_a_verdict_is_shown_as_a_card_and_kept_as_a_record(demo):
    verdict = claims.check("demo.constant", value=0.5, probe=2.0, constant=4.0, over="n = 3 & <4>, r = 1")
    data, metadata = verdict._repr_mimebundle_()
    assert data["text/plain"] == (
        "[holds with a constant] demo.constant: A distance: 0.5, wanted at most 1. Constant (the factor n): 4. "
        "Counter-probe (another start): 2. Range: n = 3 & <4>, r = 1."
    )
    assert "n = 3 &amp; &lt;4&gt;" in data["text/html"] and "lb-constant" in data["text/html"]
    assert metadata == {
        "lorabook": {
            "id": "demo.constant",
            "verdict": "holds with a constant",
            "value": "0.5",
            "probe": "2",
            "constant": "4",
            "over": "n = 3 & <4>, r = 1",
            "numbers": {"value": 0.5, "probe": 2.0, "constant": 4.0},
        }
    }
    record = dict(metadata["lorabook"])
    assert claims.Verdict(lists.find(record.pop("id")), **record) == verdict


def test_hypotheses_with_pipes_keep_their_columns():
    table = claims.Hypotheses(("|c| > 0", "|c| = 2", True), ("N = 0", "N = 3", False))._repr_mimebundle_()
    rows = table["text/markdown"].splitlines()
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {5}
    assert rows[2].endswith("| holds |") and rows[3].endswith("| does not hold |")
    assert table["text/plain"].splitlines()[0] == "|c| > 0: |c| = 2 (holds)"


# Lists


@pytest.mark.parametrize(
    "changed",
    [
        {"where": None},
        {"statement": None},
        {"statement": ""},
        {"kind": None},
        {"kind": "lemma"},
        {"scope": "loose"},
        {"band": None},
        {"band": [1]},
        {"band": [0, 1, 2]},
        {"band": [1, 0]},
        {"band": [math.nan, 1]},
        {"band": "ab"},
        {"band": 3},
        {"measured": None},
        {"band_reason": None},
        {"probe": None},
        {"floor": "low"},
        {"ceiling": "high"},
        {"mesured": "a typing error"},
        {"reason": "none", "probe": None},  # beside a band, all that a verdict needs
        {"grade": "slip"},
        *(JUDGED | {field: None} for field in JUDGED if field != "right"),
        JUDGED | {"grade": "grave"},
        JUDGED | {"witness": {"printed": 1}},
    ],
)
def test_an_incomplete_or_malformed_entry_is_refused(write, changed):
    write([entry(**changed)])
    with pytest.raises(ClaimError, match=r"^The claim demo\.a is (incomplete|malformed): "):
        lists.load("demo")


def test_a_doubled_entry_and_one_without_a_name_are_refused(write):
    write([entry(), entry()])
    with pytest.raises(ClaimError, match=r"The claim demo\.a stands twice in demo\.yml"):
        lists.load("demo")
    write([entry(id=None)])
    with pytest.raises(ClaimError, match=r"A claim in demo\.yml has no id"):
        lists.load("demo")


HEAD = "title: Demo\nversion: v1\nread: 2026-01-01\n"


@pytest.mark.parametrize(
    "text, trouble",
    [
        ("", "it has no title, version, read, claims."),
        ("a word", "it has no title, version, read, claims."),
        (HEAD.replace("title: Demo\n", "") + "claims: [{id: a}]", "it has no title."),
        (HEAD + "claims: {id: a}", "its claims are no list of entries `name: value`."),
        (HEAD + "claims: [a]", "its claims are no list of entries `name: value`."),
        (HEAD + "claims:\n  - id: a: b", "line 5: mapping values are not allowed here."),
        (HEAD + "claims: [\n", "line 5: expected the node content, but found '<stream end>'."),
        (
            HEAD + "<<<<<<< HEAD\nclaims: []\n=======\nclaims: [{id: a}]\n>>>>>>> other\n",
            "line 4: could not find expected ':'.",
        ),
        (
            HEAD + "claims: [{id: a}]\nwithdrawn:\n  - {id: b, where: Lemma 1, statement: s}\n",
            "an entry under withdrawn has date, id, now, why and no more; b has not.",
        ),
        (b"title: \xff", "'utf-8' codec can't decode byte 0xff in position 7: invalid start byte."),
    ],
)
def test_a_list_that_cannot_be_read_is_named_in_one_sentence_with_the_line(write, tmp_path, text, trouble):
    write([entry()])
    (tmp_path / "demo.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClaimError) as caught:
        lists.load("demo")
    assert str(caught.value) == f"data/claims/demo.yml cannot be read: {trouble}"


def test_what_editors_and_systems_leave_beside_a_list_is_no_source(demo, tmp_path):
    (tmp_path / ".#demo.yml").symlink_to("someone@a-machine.1234")
    (tmp_path / "._demo.yml").write_bytes(b"\xff")
    assert lists.sources() == ["demo"]


REAL = [(source, claim) for source in lists.sources() for claim in lists.load(source).values()]
NAMES = [claim.id for _, claim in REAL]


@pytest.mark.parametrize("source", lists.sources())
def test_a_list_says_what_was_read_and_when(source):
    head = lists._read(source)
    assert head["source"] == source and lists.title(source).strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", head["read"]) and lists.version(source).endswith(f"Read on {head['read']}.")
    assert len(lists.load(source)) == len(head["claims"]) > 0


@pytest.mark.parametrize("claim", [claim for _, claim in REAL], ids=NAMES)
def test_an_entry_can_be_shown(claim):
    # cards are plain text: mathematics between dollars would stand there as it is
    for field in ("measured", "probe", "constant", "reason", "where"):
        assert "$" not in getattr(claim, field), f"{field} is shown on a card"
    for field in ("statement", "hypotheses", "quote", "right", "ruled_out"):
        text = getattr(claim, field)
        assert text.count("$") % 2 == 0, f"a dollar of {field} has no partner"
        prose = "".join(text.split("$")[::2])
        assert not re.search(r"\\[a-zA-Z]", prose), f"{field} has mathematics outside dollars"
    # the ledger's columns: a pipe turns into a TeX command, which needs mathematics around it
    for field in ("where", "statement"):
        assert "|" not in "".join(getattr(claim, field).split("$")[::2]), f"a pipe in the prose of {field}"
    assert re.fullmatch(r"[a-z0-9_]+\.[a-z0-9-]+", claim.id)
    if claim.right:
        assert claim.ruled_out, "a suspected failure says what else was ruled out"


@pytest.mark.parametrize("source", lists.sources())
def test_no_text_has_swallowed_a_backslash(source):
    # in YAML's double quotes "\tau" is a tab and "au"
    for raw in lists._read(source)["claims"]:
        for key, text in raw.items():
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", str(text)), (raw["id"], key)


# Pages


def treated(folder):
    """(anchors, checks): for each claim the pages on which it has its anchor, and on which it is checked."""
    anchors, checks = {}, {}
    for page in sorted(Path(folder).glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for anchor in re.findall(r"^\(claim-([\w-]+)\)=$", text, flags=re.M):
            anchors.setdefault(anchor, []).append(page.stem)
        for call in re.findall(r"claims\.(?:check|not_testable|from_runs)\(\s*([^\s,)]+)", text):
            checks.setdefault(call.strip("\"'"), []).append(page.stem)
    return anchors, checks


def faults(folder, wanted):
    """One sentence for each claim that is not treated once, and for each page that treats what is no claim."""
    anchors, checks = treated(folder)
    found = []
    for name in wanted:
        for what, pages in (("anchor", anchors.get(name.replace(".", "-"), [])), ("check", checks.get(name, []))):
            if len(pages) != 1:
                found.append(f"{name} has its {what} {len(pages)} times, on {', '.join(pages) or 'no page'}")
        if anchors.get(name.replace(".", "-")) != checks.get(name):
            found.append(f"{name} has its anchor and its check on different pages")
    found += [
        f"{name} is checked on {', '.join(pages)} and stands in no list"
        for name, pages in checks.items()
        if name not in wanted
    ]
    known = {name.replace(".", "-") for name in wanted}
    found += [
        f"claim-{name} on {', '.join(pages)} is the anchor of no claim"
        for name, pages in anchors.items()
        if name not in known
    ]
    return found


def test_every_claim_is_treated_on_exactly_one_page():
    assert faults(NOTEBOOKS, NAMES) == []


PAGE = '(claim-demo-exact)=\n## Exact\n\n```{code-cell} ipython3\nclaims.check(\n    "demo.exact", value=1)\n```\n'


@pytest.mark.parametrize(
    "pages, came",
    [
        ({"a": "nothing"}, "demo.exact has its check 0 times, on no page"),
        ({"a": PAGE, "b": PAGE}, "demo.exact has its check 2 times, on a, b"),
        ({"a": PAGE + PAGE}, "demo.exact has its anchor 2 times, on a, a"),
        (
            {"a": PAGE.split("##")[0], "b": PAGE.split("##")[1]},
            "demo.exact has its anchor and its check on different pages",
        ),
        ({"a": PAGE, "b": 'claims.not_testable("demo.ghost")'}, "demo.ghost is checked on b and stands in no list"),
        ({"a": PAGE, "b": "(claim-demo-ghost)="}, "claim-demo-ghost on b is the anchor of no claim"),
    ],
)
def test_a_claim_that_no_page_or_that_two_pages_check_is_found(tmp_path, pages, came):
    (tmp_path / "good.md").write_text(PAGE)
    assert faults(tmp_path, ["demo.exact"]) == []
    (tmp_path / "good.md").unlink()
    for name, text in pages.items():
        (tmp_path / f"{name}.md").write_text(text)
    assert came in faults(tmp_path, ["demo.exact"])


# Grounds


@pytest.mark.parametrize(
    "grounds, said",
    [
        ({"a": ["demo.gone"]}, "The claim demo.a rests on demo.gone, which no claim list has."),
        ({"a": ["nowhere.b"]}, "The claim demo.a rests on nowhere.b, which no claim list has."),
        ({"a": ["b"]}, "The claim demo.a rests on b, which no claim list has."),
        ({"a": ["demo.b"], "b": ["demo.c"], "c": ["demo.a"]}, "Claims in a circle: demo."),
        ({"a": ["demo.a"]}, "Claims in a circle: demo.a rests on demo.a."),
        ({"a": "demo.b"}, "The claim demo.a is malformed: rests_on is no list of claims."),
        ({"a": [1]}, "The claim demo.a is malformed: rests_on is no list of claims."),
    ],
)
def test_a_ground_that_is_none_and_a_circle_are_refused_with_one_sentence(write, grounds, said):
    write([entry(id=name, rests_on=grounds.get(name)) for name in "abc"])
    with pytest.raises(ClaimError, match=f"^{re.escape(said)}"):
        lists.load("demo")


def test_a_claim_may_rest_on_one_of_another_list(write):
    write([entry(id="a", rests_on=["other.b"])])
    write([entry(id="b")], name="other")
    assert lists.find("demo.a").rests_on == ("other.b",)
    write([entry(id="b", rests_on=["demo.a"])], name="other")
    with pytest.raises(ClaimError, match="circle"):
        lists.load("demo")


def test_a_claim_is_named_in_code_style_where_a_text_speaks_of_it():
    every = [claim for source in lists.sources() for claim in lists.load(source).values()]
    said = [text for claim in every for text in vars(claim).values() if isinstance(text, str)]
    said += [
        str(text)
        for source in lists.sources()
        for entry in [*lists.withdrawn(source), *lists.items(source)]
        for text in (entry.get("now"), entry.get("why"), entry.get("reason"))
    ]
    bare = re.compile(rf"(?<![`#\w])(?:{'|'.join(lists.sources())})\.[a-z0-9][\w-]*[a-z0-9]")
    ids = {claim.id for claim in every}
    assert bare.search("as for lora_one.theorem-3-2") and not bare.search("as for `lora_one.theorem-3-2`")
    assert not [text for text in said if text not in ids and bare.search(text)]
    short = re.compile(r"\b[Aa]s for (?:theorem|proposition|lemma|eq)-\d")
    assert not [text for text in said if short.search(text)]
