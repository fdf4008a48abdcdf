"""(246)-(247), "= eta (||B||^2 + ||A||^2)^(1/2) = eta ||theta||" for any real eta: the norm of -2 theta.

B = (3), A = (4), so that ||theta|| = 5. Item 3 of the remark itself has |eta|.
"""

import math

eta, B, A = -2, 3, 4
print(f"printed: {eta * math.hypot(B, A):g}")
print(f"right: {math.hypot(eta * B, eta * A):g}")
