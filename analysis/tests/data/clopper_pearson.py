#!/usr/bin/env python3
"""Writes clopper_pearson.csv: 95 % Clopper-Pearson bounds computed with 60
digits by mpmath (python3, mpmath 1.3), independent of the Rust code.

The bound is found in the binomial tail itself: its sum is continued from the
term at k until the terms vanish, so neither an incomplete beta function nor a
gamma function of a large argument is trusted more than to 60 digits."""
import random
from mpmath import mp, mpf, loggamma, log, exp, sqrt

mp.dps = 60
TAIL = mpf("0.025")


def term(k, n, p):
    return exp(loggamma(n + 1) - loggamma(k + 1) - loggamma(n - k + 1)
               + k * log(p) + (n - k) * log(1 - p))


def at_least(k, n, p):
    t, total, i = term(k, n, p), mpf(0), k
    while i <= n and t > mpf(10) ** -50:
        total += t
        t *= mpf(n - i) / (i + 1) * p / (1 - p)
        i += 1
    return total


def bound(k, n):
    """p with P(X >= k; n, p) = 0.025: the lower bound for k > 0. P falls away
    fast enough below the mean that the sum has few thousand terms."""
    if k == n:
        return TAIL ** (mpf(1) / n)
    sd = sqrt(mpf(k) * (n - k) / n) / n if k < n else mpf(1) / n
    lo, hi = mpf(k) / n / 10**6, mpf(k) / n
    x = max(mpf(k) / n - 2 * sd, mpf(k) / n / 50)
    for _ in range(60):
        f = at_least(k, n, x) - TAIL
        if f > 0:
            hi = x
        else:
            lo = x
        # dP/dp = k C(n,k) p^(k-1) (1-p)^(n-k)
        step = f / (term(k, n, x) * k / x)
        new = x - step
        if not lo < new < hi:
            new = (lo + hi) / 2
        if abs(new - x) < mpf(10) ** -30 * x:
            return new
        x = new
    return x


def main():
    rng = random.Random(20240229)
    pairs = {(12, 1027), (1, 1), (1, 2), (5, 9), (9, 10), (1, 10**7), (10**7 - 1, 10**7)}
    while len(pairs) < 1000:
        n = int(10 ** rng.uniform(0, 5 if len(pairs) < 960 else 7))
        r = rng.random()
        k = rng.randint(0, n) if r < 0.5 else int(n ** rng.random())
        if len(pairs) >= 960:
            k = min(k, 20000) if rng.random() < 0.8 else k
        pairs.add((min(k, n), n))
    with open("clopper_pearson.csv", "w") as out:
        out.write("k,n,lo,hi\n")
        for k, n in sorted(pairs, key=lambda x: (x[1], x[0])):
            lo = mpf(0) if k == 0 else bound(k, n)
            hi = mpf(1) if k == n else 1 - bound(n - k, n)
            out.write(f"{k},{n},{mp.nstr(lo, 25)},{mp.nstr(hi, 25)}\n")


main()
