"""What finds parameters: gradient descent, and the solver with a certificate.

In shapes P1 is P + 1: V (P1, C) is W with the bias as its last row.
"""
