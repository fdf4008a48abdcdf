"""The first cell's guard: every way in which a parameter can be wrong, one sentence each."""

import math
import types

import pytest

from lorabook.page import parameters
from lorabook.page.parameters import ParameterError

RULES = {
    "n": (int, 2, 64),
    "rank": (int, 1, "n"),
    "step": (float, 0.0, 1.0),
    "loss": ("trace", "frobenius"),
    "seeds": [int, 0, 9],
    "scales": [float, 1e-3, "step"],
}
GOOD = {"n": 32, "rank": 4, "step": 0.5, "loss": "trace", "seeds": [0, 1, 9], "scales": [0.1, 0.5]}


def check(**changed):
    parameters.check(GOOD | changed, **RULES)


def test_what_is_declared_passes():
    check()
    check(rank=32, n=32)
    check(step=1, scales=(0.001, 1), seeds=(3,))


def test_the_names_of_a_fresh_kernel_and_modules_are_no_parameters():
    kernel = dict.fromkeys(("In", "Out", "exit", "quit", "open", "get_ipython", "_", "__name__", "_i1"))
    check(**kernel, parameters=parameters, math=types.ModuleType("math"))


@pytest.mark.parametrize(
    "changed, came",
    [
        ({"ranks": 4}, "Unknown parameter 'ranks'; this notebook takes n, rank, step, loss, seeds, scales"),
        ({"N": 4}, "Unknown parameter 'N'"),
        ({"helper": len}, "Unknown parameter 'helper'"),
        ({"n": 32.0}, "n must be a whole number; got 32.0"),
        ({"n": "32"}, "n must be a whole number; got '32'"),
        ({"n": None}, "n must be a whole number; got None"),
        ({"n": True}, "n must be a whole number; got True"),
        ({"n": math.nan}, "n must be a whole number; got nan"),
        ({"n": [32]}, r"n must be a whole number; got \[32\]"),
        ({"step": True}, "step must be a finite number; got True"),
        ({"step": "0.5"}, "step must be a finite number; got '0.5'"),
        ({"step": math.nan}, "step must be a finite number; got nan"),
        ({"step": math.inf}, "step must be a finite number; got inf"),
        ({"step": 1 + 0j}, "step must be a finite number"),
        ({"n": 1}, "n must lie between 2 and 64; got 1"),
        ({"n": 65}, "n must lie between 2 and 64; got 65"),
        ({"n": 10**400}, "n must lie between 2 and 64; got 1000"),
        ({"step": -(10**400)}, "step must lie between 0.0 and 1.0; got -1000"),
        ({"step": 1.0000001}, "step must lie between 0.0 and 1.0; got 1.0000001"),
        ({"rank": 33}, "rank must lie between 1 and n = 32; got 33"),
        ({"n": 3}, "rank must lie between 1 and n = 3; got 4"),
        ({"loss": "mse"}, "loss must be one of trace, frobenius; got 'mse'"),
        ({"loss": 1}, "loss must be one of trace, frobenius; got 1"),
        ({"loss": ["trace"]}, r"loss must be one of trace, frobenius; got \['trace'\]"),
        ({"seeds": 3}, "seeds must be a list of numbers; got 3"),
        ({"seeds": "012"}, "seeds must be a list of numbers; got '012'"),
        ({"seeds": []}, r"seeds must be a list of numbers; got \[\]"),
        ({"seeds": [1, 10]}, "each of seeds must lie between 0 and 9; got 10"),
        ({"seeds": [1, False]}, "each of seeds must be a whole number; got False"),
        ({"seeds": [[1]]}, r"each of seeds must be a whole number; got \[1\]"),
        ({"scales": [0.1, math.nan]}, "each of scales must be a finite number; got nan"),
        ({"scales": [0.6]}, "each of scales must lie between 0.001 and step = 0.5; got 0.6"),
    ],
)
def test_a_bad_parameter_gets_one_sentence(changed, came):
    with pytest.raises(ParameterError, match=came) as raised:
        check(**changed)
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message
    assert isinstance(raised.value, ValueError)


def test_an_edge_that_is_no_number_is_blamed_and_not_the_parameter_it_bounds():
    with pytest.raises(ParameterError, match="^n, which bounds rank, must be a number; got '32'.$"):
        parameters.check({"rank": 2, "n": "32"}, rank=(int, 1, "n"), n=(int, 2, 64))


def test_a_parameter_that_was_never_set_is_named():
    with pytest.raises(ParameterError, match="^The parameter 'n' is declared but not set.$"):
        parameters.check({}, n=(int, 2, 64))
