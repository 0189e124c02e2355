"""The kernels at both ends of a step (chapter 7): its begin, pooling, classifier and losses, and the update.

Notation as in kernels.py. What a step needs to know of itself is on the device: the clock (next step, this step, its
first image), the gates of every step, the draws of an epoch, and the rates.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from sto_lite.speed.lanes.kernels import kernel


@triton.jit
def begin(clock, table, now, BATCH, SIZE, B: tl.constexpr):
    """Advance the clock, and lay this step's gates, a row of `table` (steps, SIZE), where all kernels read them."""
    step = tl.load(clock)
    i = tl.arange(0, B)
    tl.store(now + i, tl.load(table + step * SIZE + i, mask=i < SIZE, other=0.0), mask=i < SIZE)
    tl.debug_barrier()  # every thread has read the clock
    tl.store(clock, step + 1)
    tl.store(clock + 1, step)
    tl.store(clock + 2, step * BATCH)


@kernel
def pool(h, gates, features, N, S, Q: tl.constexpr, QP: tl.constexpr, C: tl.constexpr):
    """Features (R, N, C): each image's mean over its Q pixels of h."""
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        n, q, c = tl.program_id(0), tl.arange(0, QP), tl.arange(0, C)
        at = lane.to(tl.int64) * S + (n * Q + q)[:, None] * C + c[None, :]
        v = tl.load(h + at, mask=(q < Q)[:, None], other=0.0).to(tl.float32)
        tl.store(features + (lane * N + n) * C + c, tl.sum(v, 0) / Q)


@triton.jit
def log_softmax(z, there):
    """Of each row, over the classes that are there; 0 elsewhere, where exp is then to be masked."""
    z = z - tl.max(tl.where(there, z, float("-inf")), 1)[:, None]
    return tl.where(there, z - tl.log(tl.sum(tl.where(there, tl.exp(z), 0.0), 1))[:, None], 0.0)


@triton.jit
def logits(x, w, b, okn, cl, okc, C: tl.constexpr, CB: tl.constexpr):
    """(BM, CL) logits from rows of features x + c and weights w + c, CB channels at a time."""
    acc = tl.zeros((x.shape[0], cl.shape[0]), tl.float32)
    for k in tl.static_range(C // CB):
        c = k * CB + tl.arange(0, CB)
        xk = tl.load(x + c[None, :], mask=okn[:, None], other=0.0)
        wk = tl.load(w + c[None, :], mask=okc[:, None], other=0.0)
        acc = tl.dot(xk, tl.trans(wk), acc, input_precision="ieee")
    return acc + b[None, :]


@triton.jit
def leave(d, x, w, lane, n, okn, cl, okc, dx, dw, db, N, C: tl.constexpr, CLASSES: tl.constexpr, CB: tl.constexpr,
          DB: tl.constexpr):  # fmt: skip
    """From a lane's gradient d (BM, CL) of logits: of features, and partial ones of weights and biases."""
    o = lane * tl.num_programs(0) + tl.program_id(0)
    for k in tl.static_range(C // CB):
        c = k * CB + tl.arange(0, CB)
        wk = tl.load(w + c[None, :], mask=okc[:, None], other=0.0)
        made = tl.dot(d, wk, input_precision="ieee")
        tl.store(dx + (lane * N + n)[:, None] * C + c[None, :], made, mask=okn[:, None])
        xk = tl.load(x + c[None, :], mask=okn[:, None], other=0.0)
        made = tl.dot(tl.trans(d), xk, input_precision="ieee")
        tl.store(dw + o * CLASSES * C + cl[:, None] * C + c[None, :], made, mask=okc[:, None])
    tl.store(db + o * DB + cl, tl.sum(d, 0), mask=okc)


@kernel
def head(features, w, bias, labels, draws, clock, first, rules, gates, dx, dw, db, losses, N, WS, COUNT, NMAX,
         C: tl.constexpr, CLASSES: tl.constexpr, CB: tl.constexpr, DB: tl.constexpr, CL: tl.constexpr,
         BM: tl.constexpr, STUDENTS: tl.constexpr):  # fmt: skip
    """The classifier and the loss of Eq. 9, forward and backward, for a run's lanes: students, then the teacher.

    A run of one lane has a teacher alone, and its cross-entropy. rules (K, 3): T, λ, and 1 where the teacher is a
    constant target. db has rows of DB numbers. losses (steps, K, tiles, 4): Σ over images of CE(student),
    CE(teacher), λT²·KL, and wrong ones; several students are averaged. Programs are (tile of BM images, run).
    """
    run = tl.program_id(1)
    lane = tl.load(first + run)
    students = tl.load(first + run + 1) - lane - 1
    last = lane + students
    if tl.load(gates + last) != 0:
        n, cl = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, CL)
        okn, okc = n < N, cl < CLASSES
        at = run * COUNT + tl.load(clock + 2) + n
        y = tl.load(labels + tl.load(draws + at * 4, mask=okn, other=0), mask=okn, other=0)
        there = okc[None, :] & okn[:, None]
        hot = tl.where(there & (cl[None, :] == y[:, None]), 1.0, 0.0)
        wt = w + run * WS + cl[:, None] * C
        b = tl.load(bias + run * WS + cl, mask=okc, other=0.0)
        t, lam, detach = tl.load(rules + run * 3), tl.load(rules + run * 3 + 1), tl.load(rules + run * 3 + 2)

        x = features + (last * NMAX + n)[:, None] * C
        zt = logits(x, wt, b, okn, cl, okc, C, CB)
        log_t, soft_t = log_softmax(zt, okc[None, :]), log_softmax(zt / t, okc[None, :])
        p_t = tl.where(there, tl.exp(soft_t), 0.0)
        d_t = (tl.where(there, tl.exp(log_t), 0.0) - hot) / N
        guess = tl.argmax(tl.where(okc[None, :], zt, float("-inf")), 1)
        wrong = tl.sum(tl.where(okn & (guess != y), 1.0, 0.0), 0)
        ce_t = -tl.sum(tl.sum(hot * log_t, 1), 0)
        ce_s, kl = 0.0 * ce_t, 0.0 * ce_t
        for s in tl.static_range(STUDENTS):
            if s < students:
                xs = features + ((lane + s) * NMAX + n)[:, None] * C
                zs = logits(xs, wt, b, okn, cl, okc, C, CB)
                log_s, soft_s = log_softmax(zs, okc[None, :]), log_softmax(zs / t, okc[None, :])
                apart = tl.where(there, p_t * (soft_t - soft_s), 0.0)
                ce_s += -tl.sum(tl.sum(hot * log_s, 1), 0) / students
                kl += lam * t * t * tl.sum(tl.sum(apart, 1), 0) / students
                share = 1.0 / (N * students)
                d = tl.where(there, tl.exp(log_s) - hot + lam * t * (tl.exp(soft_s) - p_t), 0.0) * share
                leave(d, xs, wt, lane + s, n, okn, cl, okc, dx, dw, db, NMAX, C, CLASSES, CB, DB)
                if detach == 0:
                    d_t += lam * t * (apart - p_t * tl.sum(apart, 1)[:, None]) * share
        leave(d_t, x, wt, last, n, okn, cl, okc, dx, dw, db, NMAX, C, CLASSES, CB, DB)
        o = (
            losses
            + ((tl.load(clock + 1) * tl.num_programs(1) + run) * tl.num_programs(0) + tl.program_id(0)) * 4
        )
        tl.store(o, ce_s)
        tl.store(o + 1, ce_t)
        tl.store(o + 2, kl)
        tl.store(o + 3, wrong)


@kernel
def sums(dx, h, dm, z, stat, gates, part, P, N, S, Q: tl.constexpr, C: tl.constexpr, BM: tl.constexpr,
         ITERS: tl.constexpr, SPREAD: tl.constexpr):  # fmt: skip
    """Sums for a batch norm: part = Σdm, Σdm·x̂ of z.

    SPREAD makes dm first: dx (R, N, C) on each of an image's Q pixels where h > 0.
    """
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        c = tl.arange(0, C)
        s = stat + lane * 5 * C + c
        first, second = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            ok = (p < P)[:, None]
            at = lane.to(tl.int64) * S + p[:, None] * C + c[None, :]
            if SPREAD:
                n = tl.where(p < P, p // Q, 0)
                d = tl.load(dx + (lane * N + n)[:, None] * C + c[None, :]) / Q
                d = tl.where(ok & (tl.load(h + at, mask=ok, other=0.0) > 0), d, 0.0)
                tl.store(dm + at, d.to(dm.dtype.element_ty), mask=ok)
            else:
                d = tl.load(dm + at, mask=ok, other=0.0).to(tl.float32)
            x = (tl.load(z + at, mask=ok, other=0.0).to(tl.float32) - tl.load(s)[None, :]) * tl.load(s + C)[
                None, :
            ]
            first += tl.sum(d, 0)
            second += tl.sum(d * x, 0)
        o = part + (lane * tl.num_programs(0) + tl.program_id(0)) * 2 * C + c
        tl.store(o, first)
        tl.store(o + C, second)


@kernel
def update(table, grads, master, momentum, low, first, gates, hyper, LANES, WS, B: tl.constexpr,
           SMAX: tl.constexpr):  # fmt: skip
    """Nesterov SGD with weight decay: partial gradients are summed over a run's lanes and their parts.

    What no living lane of the run has used keeps its weights and momentum. table (programs, 7): first weight, how
    many, where its partial gradients begin in grads (R, G, stride), G, stride, row of gates, and 1 where the gate is
    not in those yet. hyper (K, 3): rate, momentum, weight decay. Programs are (B weights, run).
    """
    t, run = table + tl.program_id(0) * 7, tl.program_id(1)
    at, size, begins = tl.load(t), tl.load(t + 1), tl.load(t + 2)
    parts, stride, row, scaled = tl.load(t + 3), tl.load(t + 4), tl.load(t + 5), tl.load(t + 6)
    at, size = tl.multiple_of(at, 16), tl.multiple_of(size, 16)
    begins, stride = tl.multiple_of(begins, 16), tl.multiple_of(stride, 16)
    e, j = tl.arange(0, B), tl.arange(0, 8)
    ok = e < size
    lane, end = tl.load(first + run), tl.load(first + run + 1)
    g, live = tl.zeros((B,), tl.float32), 0.0
    for s in tl.static_range(SMAX):
        gate = tl.load(gates + row * LANES + lane + s, mask=lane + s < end, other=0.0)
        live += tl.where(gate != 0, 1.0, 0.0)
        factor = tl.where(scaled != 0, gate, 1.0)
        i = tl.where(gate != 0, 0, parts)
        while i < parts:
            o = begins + ((lane + s) * parts + i + j) * stride
            there = (i + j < parts)[:, None] & ok[None, :]
            g += factor * tl.sum(tl.load(grads + o[:, None] + e[None, :], mask=there, other=0.0), 0)
            i += 8
    if live != 0:
        o = run.to(tl.int64) * WS + at + e
        rate, mu, decay = tl.load(hyper + run * 3), tl.load(hyper + run * 3 + 1), tl.load(hyper + run * 3 + 2)
        p = tl.load(master + o, mask=ok, other=0.0)
        g += decay * p
        m = mu * tl.load(momentum + o, mask=ok, other=0.0) + g
        p -= rate * (g + mu * m)
        tl.store(momentum + o, m, mask=ok)
        tl.store(master + o, p, mask=ok)
        tl.store(low + o, p.to(low.dtype.element_ty), mask=ok)


@kernel
def settle(table, stats, running, passed, first, counted, gates, LANES, LAYERS, RS, share, C: tl.constexpr,
           SMAX: tl.constexpr):  # fmt: skip
    """Move running statistics by each counted lane that passed the layer, in order; `passed` (K, LAYERS) counts.

    table (LAYERS, 4): where stat (R, 5, c) begins in stats, where mean and variance in running (K, RS), c, row of
    gates. Programs are (layer, run).
    """
    layer, run = tl.program_id(0), tl.program_id(1)
    t = table + layer * 4
    begins, at, size, row = tl.load(t), tl.load(t + 1), tl.load(t + 2), tl.load(t + 3)
    c = tl.arange(0, C)
    ok = c < size
    lane, end = tl.load(first + run), tl.load(first + run + 1)
    o = running + run * RS + at + c
    mean, var, more = tl.load(o, mask=ok, other=0.0), tl.load(o + size, mask=ok, other=0.0), 0
    for s in tl.static_range(SMAX):
        there = lane + s < end
        move = tl.load(counted + lane + s, mask=there, other=0) * tl.where(
            tl.load(gates + row * LANES + lane + s, mask=there, other=0.0) != 0, 1, 0
        )
        if move != 0:
            b = stats + begins + (lane + s) * 5 * size + c
            mean += share * (tl.load(b, mask=ok, other=0.0) - mean)
            var += share * (tl.load(b + 4 * size, mask=ok, other=0.0) - var)
            more += 1
    tl.store(o, mean, mask=ok)
    tl.store(o + size, var, mask=ok)
    tl.store(passed + run * LAYERS + layer, tl.load(passed + run * LAYERS + layer) + more)
