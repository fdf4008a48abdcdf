"""The chapter "What to do": its plan, the rule by which methods are told apart, and its tables."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

import lorabook
from lorabook import descent
from lorabook.practice import arms, plan, records, tables
from lorabook.practice.arms import Arm
from lorabook.real_fine_tune import compare
from lorabook.real_fine_tune.task import right

FOLDER = lorabook.DATA / "practice"


def bowl(arm, best=2e-3):
    """A validation loss that is least at one rate."""
    return {"validation": abs(math.log((arm.rate or 1) / best)), "accuracy": 0.5}


def carried_out(loss):
    """What the plan asks for, stage by stage, with losses from a formula."""
    known, stages = {}, []
    for _ in range(300):
        stage, now = plan.todo(known)
        if not now:
            return known, stages
        assert not known.keys() & set(now) and len(set(now)) == len(now)
        stages.append(stage)
        known |= {arm: loss(arm) for arm in now}
    raise AssertionError("the plan does not end")


# The plan


def test_a_rate_is_chosen_inside_its_grid_and_judged_with_each_seed():
    known, _ = carried_out(bowl)
    for _, families in plan.STAGES:
        for family in families:
            rates = list(plan.losses(family, known))
            assert plan.best(family, known) == 3e-3 and rates[0] < 3e-3 < rates[-1]
    judged = [arm for arm in known if arm.tested and arm.rate]
    assert {arm.seed for arm in judged} == set(plan.TESTS)


@pytest.mark.parametrize("best", [1e-4, 1e-1])
def test_a_grid_grows_until_the_best_is_not_at_its_edge(best):
    known, _ = carried_out(lambda arm: bowl(arm, best))
    rates = list(plan.losses(plan.LORA, known))
    assert plan.best(plan.LORA, known) == best and rates[0] < best < rates[-1]


def test_a_method_that_diverges_everywhere_ends_the_growth_and_is_not_judged():
    known, _ = carried_out(lambda arm: {"validation": math.inf} if arm.method == "full" else bowl(arm))
    assert plan.judged(plan.FULL, known) == []


def test_every_planned_comparison_has_two_sides_of_the_same_seeds_and_sentences():
    known, _ = carried_out(bowl)
    planned = plan.planned(known)
    assert len(set(plan.COMPARISONS)) == len(planned)
    for _, first, _, second in planned:
        assert [a.seed for a in first] == [b.seed for b in second] == list(plan.TESTS)
        assert {a.task for a in first} == {b.task for b in second} and set(first + second) <= known.keys()


# The rule


def test_with_one_source_of_spread_the_rule_is_students_test():
    # seeds differ and sentences do not, then the other way round
    of_seeds = compare.paired(torch.arange(5.0)[:, None].expand(5, 9), torch.zeros(5, 9))
    assert of_seeds.freedom == pytest.approx(4)
    assert of_seeds.reach() == pytest.approx(0.5**0.5 * stats.t.ppf(0.975, 4))
    of_sentences = compare.paired(torch.arange(9.0).expand(5, 9), torch.zeros(5, 9))
    assert of_sentences.freedom == pytest.approx(8)
    # the power's quantile is added: a difference of this size is found four times in five
    more = of_sentences.reach(power=0.8) - of_sentences.reach()
    assert more == pytest.approx(of_sentences.error * stats.t.ppf(0.8, 8))


def test_a_null_is_called_a_difference_no_more_often_than_the_level_says():
    verdicts = []
    source = torch.Generator().manual_seed(0)
    for _ in range(400):
        # both sources of spread: a shift of each seed, and judgements of each sentence
        shift = 0.02 * torch.randn(2, 4, 1, generator=source)
        one, other = (torch.rand(2, 4, 300, generator=source) < 0.7 + shift).double() * 100
        verdicts.append(compare.paired(one, other).verdict(1, tables.MARGIN["accuracy"]))
    wrong = sum(word in ("better", "worse") for word in verdicts)
    # a binomial count of 400 tries at 0.05 is above 35 once in a hundred
    assert wrong <= 35


def test_more_comparisons_make_the_interval_wider_and_a_verdict_weaker():
    found = compare.Difference(1.0, 0.4, 2047)
    assert found.verdict(1, 2.0) == "better" and found.verdict(100, 2.0) == "open"
    assert found._replace(mean=-1.0).verdict(1, 2.0) == "worse"
    assert compare.Difference(0.1, 0.2, 2047).verdict(1, 2.0) == "equal"


# The arms


def test_losses_survive_their_packing_and_so_do_the_judgements():
    # the third lies below log 2 by less than float16 can tell
    losses = torch.tensor([0.0123, 0.69, 0.69313, 0.6932, 4.2, 11.0], dtype=torch.float64)
    back = arms.unpack(arms.pack(losses))
    # float32 keeps 24 bits
    torch.testing.assert_close(back, losses, rtol=2**-24, atol=0)
    assert torch.equal(right(back), right(losses))
    # counter-probe: the half of the bits gets one wrong
    assert not torch.equal(right(losses.half()), right(losses))


def test_an_unknown_method_is_refused(monkeypatch):
    monkeypatch.setattr(arms, "laboratory", lambda *_: None)
    with pytest.raises(ValueError, match="method must be one of pretrained, one step, LoRA, .*; got 'QLoRA'"):
        arms.run(Arm("movie", "QLoRA", 8, 1e-3))


def test_a_point_names_its_arm_and_the_code_it_rests_on(monkeypatch):
    one, same, other = (records.point(Arm("movie", "LoRA", 8, rate)) for rate in (1e-3, 1e-3, 3e-3))
    assert one == same and one[0] != other[0] and one[1]["made_of"] == records.identity()
    with pytest.raises(lorabook.sweep.SweepError, match="the sweep"):
        records.same(records.identity() | {"torch": "0"})


def test_a_sweep_goes_on_where_it_stopped(monkeypatch, tmp_path):
    ran = []

    def everything(work, points, folder, **_):
        from lorabook.sweep import engine

        for name, head, (fields,) in points():
            ran.append(name)
            engine.place(folder, name).write_text(
                __import__("json").dumps(head | bowl(Arm(**fields)) | {"losses": arms.pack(torch.rand(9))})
            )
        return engine.Tally(0)

    class Client:
        scheduler = type("Scheduler", (), {"address": ""})

    import contextlib

    monkeypatch.setattr(records.engine, "cluster", lambda *_: contextlib.nullcontext(Client))
    monkeypatch.setattr(records.engine, "sweep", everything)
    records.sweep(tmp_path, say=lambda line: None)
    known = records.read(tmp_path)
    assert len(known) == len(ran) == len(set(ran)) and plan.todo(known) == ("", [])
    records.sweep(tmp_path, say=lambda line: None)
    assert len(ran) == len(known)
    tables.write(known, plan.planned(known), tmp_path / "tables", records.identity())
    back, compared = tables.read(tmp_path / "tables")
    assert back.keys() == known.keys() and len(compared) == 2 * len(plan.COMPARISONS)
    assert all(back[arm]["validation"] == pytest.approx(known[arm]["validation"], rel=1e-5) for arm in known)


# What the page says of alpha


def test_under_adam_and_from_zero_a_factor_before_the_update_is_the_ratio_of_the_two_rates():
    source = torch.Generator().manual_seed(0)
    target, A = (torch.randn(5, 4, generator=source, dtype=torch.float64) for _ in range(2))
    A, B, c = A[:2], torch.zeros(5, 2, dtype=torch.float64), 4.0

    def end(factor, ratio, rule):
        def forces(B, A):
            G = factor * (target - factor * B @ A)
            return G @ A.mT, B.mT @ G

        found = descent.descend(forces, B, A, ratio * 1e-2, 1e-2, 5, rule=rule)
        return factor * found.B @ found.A

    adam = lambda: descent.adam(epsilon=1e-16)
    # the two runs differ by rounding, which five steps do not amplify, and by Adam's epsilon
    torch.testing.assert_close(end(c, 1.0, adam()), end(1.0, c, adam()), rtol=1e-9, atol=1e-9)
    # counter-probe: under plain descent it is the ratio c^2, and not c
    torch.testing.assert_close(end(c, 1.0, None), end(1.0, c**2, None), rtol=1e-9, atol=1e-9)
    assert (end(c, 1.0, None) - end(1.0, c, None)).norm() > 0.1 * end(c, 1.0, None).norm()


# The tables that are kept


def test_the_tables_hold_what_the_plan_asks_for_and_nothing_else():
    known, contrasts = tables.read(FOLDER)
    reached = {}
    while now := {arm: known[arm] for arm in plan.todo(reached)[1] if arm in known}:
        reached |= now
    assert reached == known and known
    assert {pair[:2] for pair in contrasts} <= set(plan.COMPARISONS)
    assert tables.read_pilot(FOLDER).keys() == set(plan.PILOT)


@pytest.mark.slow
def test_an_arm_of_each_table_is_what_a_run_gives_now():
    known, _ = tables.read(FOLDER)
    arm = next(arm for arm in known if not arm.tested)
    # float32 sums in another order, which 64 steps amplify on other processors
    assert arms.run(arm)["validation"] == pytest.approx(known[arm]["validation"], abs=0.01)
    (falls, arm), row = next(item for item in tables.read_pilot(FOLDER).items() if item[0][0])
    again = arms.run(replace(arm, tested=False), plan.PILOT_SPLIT, falls)
    assert again["validation"] == pytest.approx(row["validation"], abs=0.01)
    # counter-probe: the other schedule ends elsewhere
    other = arms.run(replace(arm, tested=False), plan.PILOT_SPLIT, not falls)
    assert abs(other["validation"] - row["validation"]) > 0.01
