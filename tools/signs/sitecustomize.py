"""Singular vectors and eigenvectors are given up to signs, those of 0 up to a rotation; a processor may choose others.

With this folder on PYTHONPATH every second of them has the other sign, and the left ones of 0 come in reverse order.
QR is left alone: Householder's rule gives its signs, and every LAPACK has that.
"""

from functools import wraps

import torch

_svd, _eigh = torch.linalg.svd, torch.linalg.eigh


def _flipped(columns):
    signs = torch.ones(columns.shape[-1], dtype=columns.dtype, device=columns.device)
    signs[::2] = -1
    return columns * signs


@wraps(_svd)
def svd(*args, **kwargs):
    U, s, Vh = _svd(*args, **kwargs)
    ranks = (s > 1e-10 * s[..., :1]).sum(-1).flatten().tolist()
    U, V = _flipped(U), _flipped(Vh.mT)
    if len(set(ranks)) == 1:
        U = torch.cat([U[..., : ranks[0]], U[..., ranks[0] :].flip(-1)], -1)
    return torch.return_types.linalg_svd((U, s, V.mT))


@wraps(_eigh)
def eigh(*args, **kwargs):
    values, vectors = _eigh(*args, **kwargs)
    return torch.return_types.linalg_eigh((values, _flipped(vectors)))


torch.linalg.svd, torch.linalg.eigh = svd, eigh
