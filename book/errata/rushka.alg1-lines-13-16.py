"""Algorithm 1, lines 13-16, "for j = 1, ..., k do A_{j+1} = A_j - ...; set A* <- A_k": updates that reach A*.

A_1 is set nowhere in the first pass. The kindest reading that runs takes A_1 = A_0, the value at the start of the
stage. The loop for B, lines 7-9, runs over j = 0, ..., k - 1, and all of its k updates reach B_k.
"""


def arriving(first, k):
    """How many of the k updates A_{j+1} = A_j + (one update), j = first, ..., first + k - 1, are contained in A_k."""
    contained = {first: 0}
    for j in range(first, first + k):
        contained[j + 1] = contained[j] + 1
    return contained[k]


inner = (1, 2, 4)
print("printed:", ", ".join(f"{arriving(1, k)} of {k}" for k in inner))
print("right:", ", ".join(f"{arriving(0, k)} of {k}" for k in inner))
