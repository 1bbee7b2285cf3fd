#!/usr/bin/env python3
"""Random reference numbers for the mixture mathematics, made with numpy and scipy in float64.

    target/scipy-venv/bin/python tools/reference-paper.py cases.json --seed 1 --count 10
    GMMK_REFERENCE=cases.json cargo test --test reference agrees

Writes `--count` cases of every op of tests/reference/paper.json, with its keys. Everything is computed
here from the definitions: dense sums, library integrals, no code of gmmk.
"""

import argparse
import json

import numpy as np
from scipy import integrate, optimize, special, stats

TIGHT, LOOSE = [1e-10, 1e-12], [2e-5, 2e-6]


def simplex(rng, n):
    p = rng.exponential(size=n) * (rng.random(n) > 0.2)
    p[rng.integers(n)] += 0.1
    return p / p.sum()


# ---- mixtures ------------------------------------------------------------------------------


def expansion(x, shape, r, mode, iters):
    """x [M, D] on a product grid."""
    axes = [np.linspace(low, high, n) for low, high, n in zip(x.min(0), x.max(0), shape)]
    s = np.array([r * (axis[-1] - axis[0]) / (len(axis) - 1) for axis in axes])
    mu = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    log = stats.norm.logpdf(x[:, None], mu, s).sum(2)
    if mode == "auto":
        mode = "one_step" if np.all(2 * s**2 <= 0.02 * x.var(0)) else "em"
        iters = 10
    if mode == "one_step":
        log_l = special.logsumexp(log, 0)
        return mu, s, special.softmax(log_l)
    pi = np.full(len(mu), 1 / len(mu))
    for _ in range(1 if mode == "resp" else iters):
        with np.errstate(divide="ignore"):
            pi = special.softmax(log + np.log(pi), 1).mean(0)
    return mu, s, pi


def expand_1d(rng):
    x = np.round(rng.normal(rng.normal(), rng.uniform(0.3, 3), rng.integers(3, 60)), 5)
    n, r = int(rng.integers(2, 40)), round(rng.uniform(0.5, 3), 2)
    mode, iters = rng.choice(["one_step", "resp", "em", "auto"]), int(rng.integers(1, 30))
    mu, s, pi = expansion(x[:, None], [n], r, mode, iters)
    inputs = {"x": x, "n": n, "sigma_rel": r, "mode": mode, "iters": iters}
    return inputs, {"mu": mu[:, 0], "sigma": s[0], "pi": pi}


def expand_nd(rng):
    dims = int(rng.integers(2, 4))
    x = np.round(rng.normal(size=(rng.integers(4, 30), dims)), 5)
    shape, r = rng.integers(2, 7, dims), round(rng.uniform(0.5, 2), 2)
    mode, iters = rng.choice(["one_step", "resp", "em"]), int(rng.integers(1, 10))
    mu, s, pi = expansion(x, shape, r, mode, iters)
    inputs = {"x": x, "shape": shape, "sigma_rel": r, "mode": mode, "iters": iters}
    return inputs, {"mu": mu, "sigma": s, "pi": pi}


def components(rng):
    n = int(rng.integers(1, 9))
    mu = np.sort(np.round(rng.normal(scale=4, size=n), 4))
    return mu, np.round(rng.uniform(0.2, 2, n), 4)


def gmm_eval(rng):
    mu, sigma = components(rng)
    pi = simplex(rng, len(mu))
    x = np.round(np.concatenate([rng.normal(scale=6, size=8), [-200, 300]]), 4)
    with np.errstate(divide="ignore"):
        log = special.logsumexp(stats.norm.logpdf(x[:, None], mu, sigma) + np.log(pi), 1)
    cdf = special.ndtr((x[:, None] - mu) / sigma) @ pi
    return {"pi": pi, "mu": mu, "sigma": sigma, "x": x}, {"pdf": np.exp(log), "cdf": cdf, "logpdf": log}


# ---- distances -----------------------------------------------------------------------------


def pieces(f, low, high):
    """The integral of |f| by quadrature between the roots of f."""
    grid = np.linspace(low, high, 20001)
    values = f(grid)
    at = np.nonzero(abs(values) > 1e-13)[0]  # The rest is rounding.
    both = [(grid[i], grid[j]) for i, j in zip(at, at[1:]) if values[i] * values[j] < 0]
    roots = [optimize.brentq(lambda x: f(np.array([x]))[0], a, b, xtol=1e-15) for a, b in both]
    ends = np.concatenate([[low], roots, [high]])
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = 0.0
    for a, b in zip(ends, ends[1:]):
        cells = np.linspace(a, b, max(2, int((b - a) / 0.05)))
        half, middle = np.diff(cells) / 2, (cells[1:] + cells[:-1]) / 2
        points = middle[:, None] + half[:, None] * nodes
        total += abs((f(points.ravel()).reshape(points.shape) @ weights * half).sum())
    return total


def pair(rng):
    mu, sigma = components(rng)
    if rng.random() < 0.5:
        sigma = np.full_like(sigma, sigma[0])
    return simplex(rng, len(mu)), simplex(rng, len(mu)), mu, sigma


def w1(rng):
    p, q, mu, sigma = pair(rng)
    a, b = np.sort(np.round(rng.normal(scale=5, size=2), 4))
    integral = lambda x: special.ndtr((x - mu) / sigma) * (x - mu) + sigma * stats.norm.pdf((x - mu) / sigma)
    a_n = integral(b) - integral(a)
    cdf = lambda x: special.ndtr((x[:, None] - mu) / sigma) @ (p - q)
    margin = 12 * sigma.max()
    expected = {
        "w1_exact": pieces(cdf, mu[0] - margin, mu[-1] + margin),
        "w1_signed_line": abs((p - q) @ mu),
        "w1_signed_support": abs((p - q) @ a_n),
        "a_n": a_n,
        "w1_grid": np.abs(np.cumsum(p - q)[:-1]) @ np.diff(mu),
    }
    return {"pi1": p, "pi2": q, "mu": mu, "sigma": sigma, "support": [a, b]}, expected, [1e-8, 1e-10]


def kl(p, q):
    return special.rel_entr(p, q).sum()


def div_pi(rng):
    n = int(rng.integers(1, 20))
    p, q = simplex(rng, n), simplex(rng, n)
    m = (p + q) / 2
    js = (kl(p, m) + kl(q, m)) / 2
    return {"p": p, "q": q}, {"kl": kl(p, q), "kl_rev": kl(q, p), "js": js, "tv": abs(p - q).sum() / 2}


def div_density(rng):
    p, q, mu, sigma = pair(rng)
    low, high = mu[0] - 14 * sigma.max(), mu[-1] + 14 * sigma.max()
    x = np.linspace(low, high, 400001)
    with np.errstate(divide="ignore"):
        log = stats.norm.logpdf(x[:, None], mu, sigma)
        a, b = (special.logsumexp(log + np.log(w), 1) for w in (p, q))
    m = np.logaddexp(a, b) - np.log(2)
    f = lambda x: stats.norm.pdf(x[:, None], mu, sigma) @ (p - q)
    expected = {
        "kl": integrate.simpson(np.exp(a) * (a - b), x=x),
        "js": integrate.simpson(np.exp(a) * (a - m) + np.exp(b) * (b - m), x=x) / 2,
        "tv": pieces(f, low, high) / 2,
    }
    return {"pi1": p, "pi2": q, "mu": mu, "sigma": sigma}, expected, [1e-8, 1e-10]


# ---- NGMG ----------------------------------------------------------------------------------


def kernel_matrix(mu, sigma, norm, diag):
    mu = np.asarray(mu, float)
    m = np.exp(-((mu[:, None] - mu) ** 2) / (2 * sigma**2))
    if diag == "zero":
        np.fill_diagonal(m, 0)
    if norm == "density":
        return m / (sigma * np.sqrt(2 * np.pi))
    if norm == "mass":
        return m / m.sum(1).max()
    return m / m.sum(1, keepdims=True) if norm == "row" else m


def kernel_inputs(rng, norms=("density", "unit", "mass", "row")):
    n = int(rng.integers(2, 50))
    norm, diag = str(rng.choice(norms)), str(rng.choice(["zero", "keep"]))
    inputs = {"sigma": round(rng.uniform(0.4, 8), 3), "norm": norm, "diag": diag}
    mu = np.arange(n) if rng.random() < 0.6 else np.cumsum(np.round(rng.uniform(0.3, 2, n), 3))
    inputs["mu"] = mu
    return inputs, kernel_matrix(mu, inputs["sigma"], norm, diag)


def kernel(rng):
    inputs, m = kernel_inputs(rng)
    return inputs, {"matrix": m}


def kernel_min_abs_eig(rng):
    inputs, m = kernel_inputs(rng, ("density", "unit", "mass"))
    return inputs, {"min_abs_eig": abs(np.linalg.eigvalsh(m)).min()}


def ngmg(rng):
    inputs, m = kernel_inputs(rng)
    c, t = simplex(rng, len(m)), simplex(rng, len(m))
    l = np.minimum(c - t, 0)
    expected = {"l": l, "sum_l": l.sum(), "ngmg": m @ l, "bound_inf": -m.max()}
    return {**inputs, "current": c, "target": t}, expected


def walk(rng, steps):
    inputs, m = kernel_inputs(rng, ("density", "mass"))
    c, t = simplex(rng, len(m)), simplex(rng, len(m))
    rule, eta, lam = str(rng.choice(["one_sided", "balanced"])), round(rng.uniform(0.2, 1.2), 2), 0.3
    inputs = {**inputs, "current": c, "target": t, "eta": eta, "steps": steps, "rule": rule, "lambda": lam}
    iterates = [c]
    for _ in range(steps):
        e = t - c
        if rule == "balanced":
            c = np.maximum(c + eta * ((1 - lam) * m @ e + lam * e), 0)
        else:
            c = c + eta * m @ np.maximum(e, 0)
        c = c / c.sum()
        iterates.append(c)
    return inputs, iterates, [abs(c - t).sum() / 2 for c in iterates]


def alg1(rng):
    inputs, at, tv = walk(rng, 12)
    return inputs, {"pi_step1": at[1], "pi_step2": at[2], "pi_step10": at[10], "tv": tv}


def alg1_curve(rng):
    inputs, _, tv = walk(rng, 60)
    at = [0, 1, 5, 20, 60]
    return {**inputs, "at": at}, {"tv_at": [tv[k] for k in at]}


def entropy(rng):
    b, k = int(rng.integers(1, 5)), int(rng.integers(2, 45))
    names = ["gated", "bce", "split", "two_sided", "literal", "softmax", "softmax_ce"]
    variant, sigma = str(rng.choice(names)), round(rng.uniform(0.5, 8), 2)
    norm, diag = str(rng.choice(["density", "unit", "mass"])), str(rng.choice(["zero", "keep"]))
    floor, gain = round(rng.uniform(0, 2), 2), round(rng.uniform(0, 2), 2)
    z = np.round(rng.normal(scale=rng.choice([1, 4, 40]), size=(b, k)), 4)
    y = rng.integers(0, 2, (b, k)) if rng.random() < 0.7 else np.round(rng.random((b, k)), 3)
    p, e = special.expit(z), y * special.expit(-z) - (1 - y) * special.expit(z)
    plus, minus = -special.log_expit(-z), -special.log_expit(z)  # softplus(z), softplus(-z)
    if variant in ("gated", "split"):
        m = kernel_matrix(np.arange(k), sigma, "row", "zero" if variant == "gated" else diag)
    else:
        m = kernel_matrix(np.arange(k), sigma, norm, diag)
    u, v = np.maximum(e, 0) @ m.T, np.maximum(-e, 0) @ m.T
    t = y / np.maximum(y.sum(1, keepdims=True), 1)
    soft, log_soft = special.softmax(z, 1), special.log_softmax(z, 1)
    if variant == "gated":
        w = floor + gain * (abs(e) @ m.T)
        loss, grad = w * (y * minus + (1 - y) * plus), -w * e
    elif variant == "bce":
        loss, grad = y * minus + (1 - y) * plus, -e
    elif variant == "split":
        a, c = (floor + gain * u) * y, (floor + gain * v) * (1 - y)
        loss, grad = a * minus + c * plus, -a * special.expit(-z) + c * p
    elif variant == "two_sided":
        loss, grad = u * minus + v * plus, -u * special.expit(-z) + v * p
    elif variant == "literal":
        loss, grad = -v * minus, v * special.expit(-z)
    else:
        w = np.maximum(t - soft, 0) @ m.T if variant == "softmax" else t
        loss, grad = -w * log_soft, soft * w.sum(1, keepdims=True) - w
    inputs = {"variant": variant, "logits": z, "labels": y, "sigma": sigma, "norm": norm, "diag": diag}
    return {**inputs, "floor": floor, "gain": gain}, {"loss": loss.sum() / (b * k), "grad": grad / (b * k)}


# ---- diffusion -----------------------------------------------------------------------------


def tables(rng):
    t_max = int(rng.integers(2, 300))
    b0, b1 = round(rng.uniform(1e-4, 0.05), 5), round(rng.uniform(0.01, 0.2), 4)
    kind = str(rng.choice(["constant", "linear"]))
    beta = np.full(t_max, b0) if kind == "constant" else b0 + (b1 - b0) * np.arange(t_max) / (t_max - 1)
    beta = np.concatenate([[0], beta])
    return {"kind": kind, "t_max": t_max, "beta0": b0, "beta1": b1}, beta, np.cumprod(1 - beta)


def schedule(rng):
    inputs, beta, ab = tables(rng)
    at = np.unique(np.concatenate([[0, 1, inputs["t_max"]], rng.integers(0, inputs["t_max"] + 1, 5)]))
    snr = [None if t == 0 else ab[t] / (1 - ab[t]) for t in at]
    return {**inputs, "at": at}, {"beta": beta[at], "alpha_bar": ab[at], "snr": snr}


def q_sample(rng):
    inputs, _, ab = tables(rng)
    t = int(rng.integers(1, inputs["t_max"] + 1))
    x0, eps = np.round(rng.uniform(-1, 1, 6), 4), np.round(rng.normal(size=6), 4)
    return {**inputs, "t": t, "x0": x0, "eps": eps}, {"x_t": np.sqrt(ab[t]) * x0 + np.sqrt(1 - ab[t]) * eps}


def sampler_step(rng):
    inputs, beta, ab = tables(rng)
    t = int(rng.integers(1, inputs["t_max"] + 1))
    method, eta = str(rng.choice(["renoise", "ddim", "ddpm", "ddpm_large"])), round(rng.random(), 2)
    clip = [1, None, 0.8][rng.integers(3)]
    x, e, z = (np.round(rng.normal(size=6), 4) for _ in range(3))
    x0 = (x - np.sqrt(1 - ab[t]) * e) / np.sqrt(ab[t])
    x0 = x0 if clip is None else np.clip(x0, -clip, clip)
    e2 = (x - np.sqrt(ab[t]) * x0) / np.sqrt(1 - ab[t])
    before = ab[t - 1]
    if t == 1:
        prev = x0
    elif method == "renoise":
        prev = np.sqrt(before) * x0 + np.sqrt(1 - before) * z
    elif method == "ddim":
        s = eta * np.sqrt((1 - before) / (1 - ab[t]) * beta[t])
        prev = np.sqrt(before) * x0 + np.sqrt(1 - before - s**2) * e2 + s * z
    else:
        mean = np.sqrt(before) * beta[t] / (1 - ab[t]) * x0 + np.sqrt(1 - beta[t]) * (1 - before) / (1 - ab[t]) * x
        v = beta[t] if method == "ddpm_large" else (1 - before) / (1 - ab[t]) * beta[t]
        prev = mean + np.sqrt(v) * z
    inputs = {**inputs, "t": t, "x_t": x, "eps_hat": e, "z": z, "method": method, "clip": clip, "eta": eta}
    # Without clipping f32 loses what 1/sqrt(ab) magnifies.
    return inputs, {"x0_hat": x0, "x_prev": prev}, TIGHT, [2e-4, 2e-4 / np.sqrt(ab[t])]


# ---- random numbers ------------------------------------------------------------------------


def words(counter, key):
    """Philox4x32-10."""
    c, k, mask = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & mask, a >> 32 ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def block(seed, stream, index, number):
    return words([number, stream, index & 0xFFFFFFFF, index >> 32], [seed & 0xFFFFFFFF, seed >> 32])


def box_muller(a, b):
    r = np.sqrt(-2 * np.log(((a >> 8) + 1) * 2.0**-24))
    angle = 2 * np.pi * (b >> 8) * 2.0**-24
    return r * np.cos(angle), r * np.sin(angle)


def draw(rng):
    return {"seed": int(rng.integers(2**63)), "index": int(rng.integers(2**40))}


def philox(rng):
    counter, key = rng.integers(2**32, size=4), rng.integers(2**32, size=2)
    return {"counter": counter, "key": key}, {"out": words(counter.tolist(), key.tolist())}


def timestep(rng):
    inputs, t_max = draw(rng), rng.integers(1, 2000, 4)
    x = block(inputs["seed"], 3, inputs["index"], 0)[0]
    return {**inputs, "t_max": t_max}, {"t": [1 + (x * int(t) >> 32) for t in t_max]}


def normals(rng):
    inputs, count = {**draw(rng), "stream": 2}, int(rng.integers(1, 30))
    blocks = [block(inputs["seed"], 2, inputs["index"], b) for b in range(-(-count // 4))]
    out = [v for x in blocks for v in (*box_muller(x[0], x[1]), *box_muller(x[2], x[3]))]
    return {**inputs, "count": count}, {"out": out[:count]}, [1e-12, 1e-13], [1e-5, 2e-6]


def latent(rng):
    inputs = {**draw(rng), "stream": int(rng.integers(2))}
    k, n = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    mu, sigma = np.array([-1, 0, 1]), round(rng.uniform(0.05, 0.3), 3)
    a, z = rng.integers(0, 2, k), np.zeros((k, n))
    for e in range(k * n):
        x = block(inputs["seed"], inputs["stream"], inputs["index"], e // 2)
        z[e // n, e % n] = mu[x[e % 2] * 3 >> 32] + sigma * box_muller(x[2], x[3])[e % 2]
    inputs = {**inputs, "k": k, "n": n, "mu": mu, "sigma": sigma, "a": a}
    return inputs, {"z": z * a[:, None]}, [1e-12, 1e-13]


def tokens(rng):
    inputs, expected, *tol = latent(rng)
    k, n, gamma = inputs["k"], inputs["n"], round(rng.uniform(0, 2), 2)
    code = np.empty((k, n))
    for f in range(k):
        for i in range(n):
            bit = block(0x676D6D6B, 4, f, i // 128)[i // 32 % 4] >> (i % 32) & 1
            code[f, i] = 2 * bit - 1
    made = np.asarray(inputs["a"])[:, None] * gamma * code + expected["z"]
    return {**inputs, "code_scale": gamma}, {"code": code, "tokens": made}, *tol


OPS = [
    expand_1d, expand_nd, gmm_eval, w1, div_pi, div_density, kernel, kernel_min_abs_eig, ngmg, alg1,
    alg1_curve, entropy, schedule, q_sample, sampler_step, philox, timestep, normals, latent, tokens,
]  # fmt: skip


def plain(value):
    """numpy's numbers as JSON's."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    return "inf" if value == float("inf") else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the file to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10, help="cases of every op")
    args = parser.parse_args()
    cases = []
    for op in OPS:
        for i in range(args.count):
            rng = np.random.default_rng([args.seed, OPS.index(op), i])
            inputs, expected, *tol = op(rng)
            tol = dict(zip(("f64", "f32"), tol + [TIGHT, LOOSE][len(tol) :]))
            case = {"id": f"{op.__name__}/{args.seed}/{i}", "op": op.__name__, "inputs": inputs}
            cases.append(plain({**case, "expected": expected, "tol": tol}))
    document = {"schema": 1, "set": f"random {args.seed}", "dtype": "float64", "cases": cases}
    with open(args.out, "w") as file:
        json.dump(document, file, allow_nan=False)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
