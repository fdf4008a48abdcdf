"""What PEFT's ``add_weighted_adapter`` refuses, fails on or merges to something else; convolutions in groups.

Each sentence was seen in runs of PEFT 0.21.2, which the tests repeat.
"""

from __future__ import annotations

import torch

from lorabook.adapters.compare import Term
from lorabook.adapters.folder import Adapter, opened
from lorabook.adapters.loading import in_groups
from lorabook.adapters.parts import CONVOLUTION, DIRECTION, WHOLE
from lorabook.adapters.peft_config import AdapterError, printable

INSTEAD = (
    "For the weighted sum, merge each adapter into a base of its own (merge_and_unload), and add to one base what each "
    "merge changed, times its weight."
)


def mergeable(adapter: Adapter) -> Adapter:
    """The adapter, if every module of it is ``scale * B @ A`` as PEFT applies it, or a convolution in groups.

    Raises:
        AdapterError: there is no weighted sum of factors to measure against; what PEFT does, and what to do instead.
    """
    sets = adapter.strict.startswith("The adapter ")  # in PEFT's format
    if sets and adapter.config.get("target_parameters"):
        raise AdapterError(
            f"{adapter.folder} adapts parameters (target_parameters), such as fused experts, and PEFT's "
            f"add_weighted_adapter refuses these. {INSTEAD}"
        )
    if sets and any(part.kind == DIRECTION for part in adapter.parts.values()):
        raise AdapterError(
            f"{adapter.folder} uses DoRA: PEFT's add_weighted_adapter merges its factors alone, with the norms of the "
            f"rows of W0 in place of the trained magnitudes, and says nothing. {INSTEAD}"
        )
    wrong = adapter.strict if adapter.strict != in_groups(adapter.parts) else ""
    if wrong or adapter.faults:
        raise AdapterError(wrong or next(iter(adapter.faults.values())).sentence)
    return adapter


def grouped(adapters: list[Adapter]) -> dict[str, int]:
    """The convolutions in groups, and how many groups each has."""
    return {name: part.groups for one in adapters for name, part in one.parts.items() if part.groups > 1}


def cat_in_groups(terms: list[Term], groups: int, rank: int) -> list[Term]:
    """What ``cat`` makes of a convolution in groups, as the product that is in use.

    PEFT puts the stored rows of every A (r, n) and columns of every B (m, r / groups) side by side.  The new layer cuts
    them into groups anew, each with rows of another group.

    Args:
        terms: c, B (m, r) with zeros outside the groups, and A of every adapter that has the module.
        rank: R of the new adapter, a multiple of ``groups``; PEFT fills up with zeros.
    """
    narrow = [
        torch.cat([rows.chunk(groups, 1)[place] for place, rows in enumerate(B.double().chunk(groups))])
        for _, B, _ in terms
    ]
    columns, lines = torch.cat(narrow, 1), torch.cat([c * A.double() for c, _, A in terms])
    B = columns.new_zeros(len(columns), rank // groups)
    A = lines.new_zeros(rank, lines.shape[1])
    B[:, : columns.shape[1]], A[: len(lines)] = columns, lines
    return [(1.0, torch.block_diag(*B.chunk(groups)), A)]


def obstacle(adapters: list[Adapter]) -> str:
    """Why PEFT makes no merge of these at all, or nothing."""
    if len({type(one.config.get("target_modules")) for one in adapters}) > 1:
        return "PEFT refuses it, as target_modules is a list in one adapter and an expression in another"
    biased = [place for place, one in enumerate(adapters) if one.config.get("bias") not in (None, "none")]
    if len(biased) > 1 or biased == [0]:  # the merged adapter has the first one's configuration
        return "PEFT refuses it, as it takes one adapter with bias at most, and the merged one is as the first"
    whole = [{key for key, why in one.skipped.items() if why == WHOLE} for one in adapters]
    for place, one in enumerate(adapters):
        for other in whole[:place]:
            for key in sorted(whole[place] & other):
                if any(f".{name}." in f".{key}" for name in one.config.get("modules_to_save") or []):
                    return f"PEFT refuses it, as {printable(key)} is saved whole in more than one"
    return ""


def odd_convolution(adapter: Adapter) -> str:
    """A convolution that PEFT's ``svd`` does not flatten to a matrix, or nothing."""
    for name, part in adapter.parts.items():
        sides = len(opened(adapter.files[part.key_A]).get_slice(part.key_A).get_shape()) - 2
        if part.kind == CONVOLUTION and sides != 2:
            return f"{printable(name)} is a Conv{sides}d"
    return ""
