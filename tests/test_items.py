"""Coverage: every statement of a source has a claim or a reason, and every claim of a source belongs to a statement."""

import pytest

from lorabook.page import ledger, lists

SOURCES = ("mallada", "lora_one", "rushka", "kim")


def named(source):
    return [f"{source}.{name}" for item in lists.items(source) for name in item.get("claims", [])]


@pytest.mark.parametrize("source", SOURCES)
def test_every_item_of_a_source_has_claims_or_a_reason(source):
    found = lists.items(source)
    assert found
    for item in found:
        assert item.keys() in ({"item", "claims"}, {"item", "reason"})
        assert item["item"] and (item.get("claims") or item.get("reason"))
    assert len({item["item"] for item in found}) == len(found)


@pytest.mark.parametrize("source", SOURCES)
def test_every_claim_of_an_item_exists(source):
    assert set(named(source)) <= set(lists.load(source))


@pytest.mark.parametrize("source", SOURCES)
def test_every_claim_that_a_source_makes_belongs_to_an_item(source):
    theirs = {name for name, claim in lists.load(source).items() if claim.kind != "beyond"}
    assert theirs <= set(named(source))


def test_a_source_without_a_list_of_items_has_none():
    assert lists.items("one_dynamics") == []


def test_the_table_of_coverage_leads_to_each_claim_and_gives_each_reason():
    table = ledger.coverage("mallada")
    assert len(table.rows) == len(lists.items("mallada"))
    cells = dict(table.rows)
    assert cells["Theorem on the alignment phase, norm"] == "[theorem-norm](#claim-mallada-theorem-norm)"
    assert cells["Questions and references on the slides"] == "– no statement"
