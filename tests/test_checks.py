"""The public door: what fits passes unchanged, and what does not gets one sentence that says what came."""

import math
import re

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lorabook import checks

f64 = torch.float64
B, A, W0 = torch.ones(5, 2, dtype=f64), torch.ones(2, 4, dtype=f64), torch.ones(5, 4, dtype=f64)


def one_sentence(raised):
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    return message


def test_a_finite_float64_matrix_passes_as_it_is():
    for shape in ((1, 1), (5, 4), (3, 2, 5, 4)):
        value = torch.ones(shape, dtype=f64)
        assert checks.matrix(value, "W0") is value


@pytest.mark.parametrize(
    "value, came",
    [
        (torch.ones(2, 2), "W0 must be a float64 tensor; got torch.float32"),
        (torch.ones(2, 2, dtype=torch.int64), "got torch.int64"),
        (torch.ones(2, 2, dtype=torch.complex128), "got torch.complex128"),
        ([[1.0]], "W0 must be a float64 tensor; got list"),
        (None, "got NoneType"),
        (torch.ones(3, dtype=f64), r"W0 must be a matrix \(..., rows, columns\); got shape \(3,\)"),
        (torch.tensor(1.0, dtype=f64), r"got shape \(\)"),
        (torch.ones(0, 3, dtype=f64), r"got shape \(0, 3\)"),
        (torch.ones(3, 0, dtype=f64), r"got shape \(3, 0\)"),
        (torch.full((2, 2), math.nan, dtype=f64), "W0 has entries that are NaN or infinite"),
        (torch.full((2, 2), -math.inf, dtype=f64), "W0 has entries that are NaN or infinite"),
    ],
)
def test_what_is_no_matrix_is_named(value, came):
    with pytest.raises(ValueError, match=came) as raised:
        checks.matrix(value, "W0")
    one_sentence(raised)


def test_one_bad_entry_among_many_is_seen():
    value = torch.ones(7, 6, 5, dtype=f64)
    value[3, 2, 1] = math.nan
    with pytest.raises(ValueError, match="A has entries"):
        checks.matrix(value, "A")


def test_factors_that_fit_pass_with_and_without_batch():
    checks.factors(B, A)
    checks.factors(B, A, W0)
    checks.factors(B.expand(3, 1, 5, 2), A.expand(7, 2, 4), W0)
    checks.factors(torch.ones(4, 4, dtype=f64), A.mT @ A)


@pytest.mark.parametrize(
    "arguments, came",
    [
        ((B, A.mT), r"B \(5, 2\) and A \(4, 2\) do not multiply: ranks 2 and 4 differ"),
        ((torch.ones(5, 5, dtype=f64), torch.ones(5, 4, dtype=f64)), "rank 5 is above the smaller dimension 4"),
        ((B, A, W0.mT), r"W0 \(4, 5\) and the update B A \(5, 4\) have different shapes"),
        ((B.float(), A), "B must be a float64 tensor; got torch.float32"),
        ((B, A * math.nan), "A has entries"),
        ((B, A, W0 * math.inf), "W0 has entries"),
        ((B.expand(3, 5, 2), A.expand(4, 2, 4)), r"leading dimensions do not fit each other: B \(3,\), A \(4,\)"),
        ((B, A.expand(4, 2, 4), W0.expand(3, 5, 4)), r"A \(4,\), W0 \(3,\)"),
        ((B, torch.ones(2, 4, dtype=f64, device="meta")), "one device; got B on cpu, A on meta"),
    ],
)
def test_factors_that_do_not_fit_are_described(arguments, came):
    with pytest.raises(ValueError, match=came) as raised:
        checks.factors(*arguments)
    one_sentence(raised)


def test_batch_gives_the_common_leading_dimensions():
    assert checks.batch(W0=(), B=(3, 1), A=(7,)) == (3, 7)


@pytest.mark.parametrize(
    "values", [3, 3.0, [3], (3.0,), torch.tensor(3), torch.tensor([3.0]), torch.tensor([3.0], dtype=f64)]
)
def test_times_become_a_float64_vector(values):
    found = checks.times(values, W0)
    assert found.dtype == f64 and found.shape == (1,) and found.item() == 3.0


def test_times_keep_their_order_and_their_repetitions():
    assert checks.times([2.0, 0.0, 2.0, 1e300], W0).tolist() == [2.0, 0.0, 2.0, 1e300]


@pytest.mark.parametrize(
    "values, came",
    [
        ([1.0, -0.5, -2.0], "times must not be negative; the smallest is -2"),
        ([math.nan], "times has entries that are NaN or infinite"),
        ([math.inf], "times has entries that are NaN or infinite"),
        ([[1.0]], r"got shape \(1, 1\)"),
        ([], r"at least one; got shape \(0,\)"),
        (None, "times must be a number or a tensor of numbers; got None"),
        ("late", "got 'late'"),
        (["late"], r"got \['late'\]"),
    ],
)
def test_bad_times_get_one_sentence(values, came):
    with pytest.raises(ValueError, match=came) as raised:
        checks.times(values, W0)
    one_sentence(raised)


def test_the_sentence_uses_the_name_the_caller_knows():
    with pytest.raises(ValueError, match="^steps must not be negative"):
        checks.times([-1], W0, "steps")


@pytest.mark.parametrize("value", [True, 2.0, "2", None, 0])
def test_a_count_is_a_whole_number(value):
    with pytest.raises(ValueError, match=f"inner must be a whole number >= 1; got {value!r}") as raised:
        checks.count(value, "inner", 1)
    one_sentence(raised)
    assert checks.count(1, "inner", 1) == 1


@pytest.mark.parametrize("value", [1, 0.5, 5e-324, 1.7e308, np.float64(2.0), np.float32(2.0), np.int64(3)])
def test_a_positive_finite_number_passes_as_it_is(value):
    assert checks.positive(value, "step") is value


@pytest.mark.parametrize(
    "value", [0, -0.0, -1, math.inf, -math.inf, math.nan, True, "1", None, 1j, [1.0], torch.tensor(1.0)]
)
def test_what_is_not_a_positive_finite_number_is_named(value):
    with pytest.raises(ValueError, match=re.escape(f"step must be positive and finite; got {value!r}.")):
        checks.positive(value, "step")


def test_a_number_may_be_a_tensor_and_must_be_finite():
    assert checks.number(torch.arange(3), "trace").tolist() == [0.0, 1.0, 2.0]
    for bad, came in ((None, "got None"), ("c", "got 'c'"), (math.nan, "NaN or infinite")):
        with pytest.raises(ValueError, match=f"trace .*{came}") as raised:
            checks.number(bad, "trace")
        one_sentence(raised)


def test_a_number_that_must_be_positive_is_named_by_its_smallest():
    assert checks.number([0.5, 2], "step", positive=True).tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match="^step must be positive; the smallest is -3.$"):
        checks.number([1.0, 0.0, -3.0], "step", positive=True)


def test_numbers_and_tensors_meet_on_the_device_of_the_first_tensor():
    found = checks.together(1, torch.ones(2, device="meta"), [1.0, 2.0])
    assert {value.device.type for value in found} == {"meta"} and {value.dtype for value in found} == {f64}
    assert all(value.device.type == "cpu" for value in checks.together(1, [2.0], torch.ones(1)))


def test_numbers_alone_go_to_the_default_device(monkeypatch):
    monkeypatch.setattr(checks, "default_device", lambda: torch.device("meta"))
    assert checks.together(1.0, 2.0)[0].is_meta


def test_tensors_without_data_are_recognised():
    with FakeTensorMode():
        assert checks.is_fake(torch.ones(2))
    assert checks.is_fake(torch.ones(2, device="meta")) and not checks.is_fake(W0)


def test_sizes_whose_fourth_power_leaves_float64_are_refused_and_zero_is_not():
    checks.sizes(A0=torch.tensor([0.0, 1e-75, -1e75], dtype=torch.float64))
    for size in (1e-160, -1e-160, 1e160, 2e75):
        with pytest.raises(
            ValueError, match="^A0 must be 0 or of a size between 1e-75 and 1e.75; got .* Rescale the problem.$"
        ):
            checks.sizes(A0=torch.tensor([1.0, size], dtype=torch.float64))


def test_a_package_that_is_missing_gets_one_sentence_with_its_name_and_its_extra():
    assert checks.package("math", "book") is math
    with pytest.raises(ImportError, match="needs no-lora: run `pip install no-lora`, .* extra `real`") as raised:
        checks.package("no_lora", "real", "no-lora")
    one_sentence(raised)


def test_a_package_that_is_there_and_broken_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_lora\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_lora'"):
        checks.package("half_there", "real")
