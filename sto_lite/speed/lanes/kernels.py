"""The kernels of a residual network with a lane axis (chapter 7): convolutions, batch norm, and their gradients.

A lane is one stream of one run: a student, a teacher, or the only one. Activations are (R, N, H, W, C) for R lanes; a
weight is (K, taps, C_in, C_out) for K runs, at a stride WS. `gates` is (R,): what a lane's gate is in this step. A
lane whose gate is 0 returns at once. Sums over pixels are left as partial sums, G for each lane, and whoever needs
them adds them in one order: so a lane's numbers do not depend on which others share its launch.

Programs are (part of the pixels, lane, block of channels). A part is every G-th tile of BM pixels.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

# For kernels that read gates. These are rows of one buffer, some at a multiple of 16 bytes and some not; a kernel
# would be compiled for each case, and reads one number.
kernel = triton.jit(do_not_specialize_on_alignment=["gates", "before", "on"])


@triton.jit
def pixel(p, H: tl.constexpr, W: tl.constexpr):
    """Image, row and column of pixel p of a lane."""
    return p // (H * W), (p // W) % H, p % W


@triton.jit
def total(part, lane, c, C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr):
    """The two sums over a lane's pixels, for channels c, from part (R, G, 2, C); GP ≥ G is a power of two."""
    i = tl.arange(0, GP)
    o = (lane * G + i)[:, None] * 2 * C + c[None, :]
    there = (i < G)[:, None]
    first = tl.sum(tl.load(part + o, mask=there, other=0.0), 0)
    return first, tl.sum(tl.load(part + o + C, mask=there, other=0.0), 0)


@triton.jit
def keep(part, first, second, lane, c, C: tl.constexpr):
    """Leave this program's two sums in part (R, G, 2, C)."""
    o = part + (lane * tl.num_programs(0) + tl.program_id(0)) * 2 * C + c
    tl.store(o, first)
    tl.store(o + C, second)


@triton.jit
def patch(images, draws, scale, shift, start, p, P, COUNT, H: tl.constexpr, W: tl.constexpr, CH: tl.constexpr,
          PAD: tl.constexpr):  # fmt: skip
    """(BM, 32): the 27 inputs of the stem at pixels p, cropped, flipped, normalised; column 3·tap + channel.

    images (COUNT, CH, H + 2 PAD, W + 2 PAD) uint8; draws (COUNT, 4): which image, top, left, flip.
    """
    j = tl.arange(0, 32)
    tap, ch = j // 3, (j % 3) if CH == 3 else j * 0
    n, h, w = pixel(p, H, W)
    d = draws + tl.where(p < P, start + n, 0) * 4
    y, x = h[:, None] + (tap // 3 - 1)[None, :], w[:, None] + (tap % 3 - 1)[None, :]
    ok = (p < P)[:, None] & (j < 27)[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    x = tl.where(tl.load(d + 3)[:, None] != 0, W - 1 - x, x)
    row = (tl.load(d).to(tl.int64)[:, None] * CH + ch[None, :]) * (H + 2 * PAD) + tl.load(d + 1)[:, None] + y
    at = tl.where(ok, row * (W + 2 * PAD) + tl.load(d + 2)[:, None] + x, 0)
    v = tl.load(images + at, mask=ok, other=0).to(tl.float32)
    return tl.where(ok, v * tl.load(scale + ch)[None, :] + tl.load(shift + ch)[None, :], 0.0)


@kernel
def stem_forward(images, draws, scale, shift, clock, w, y, part, gates, runs, P, YS, WS, COUNT, H: tl.constexpr,
                 W: tl.constexpr, CH: tl.constexpr, PAD: tl.constexpr, CO: tl.constexpr, BM: tl.constexpr,
                 ITERS: tl.constexpr, PREC: tl.constexpr):  # fmt: skip
    """The stem: y = conv3×3 of the batch that the clock points to; part = Σy, Σy²."""
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        run = tl.load(runs + lane)
        j, co = tl.arange(0, 32), tl.arange(0, CO)
        b = tl.load(w + run * WS + j[:, None] * CO + co[None, :], mask=(j < 27)[:, None], other=0.0)
        start = tl.load(clock + 2)
        first, second = tl.zeros((CO,), tl.float32), tl.zeros((CO,), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            a = patch(images, draws + run * COUNT * 4, scale, shift, start, p, P, COUNT, H, W, CH, PAD)
            acc = tl.dot(a.to(b.dtype), b, input_precision=PREC)
            at = y + lane.to(tl.int64) * YS + p[:, None] * CO + co[None, :]
            tl.store(at, acc.to(y.dtype.element_ty), mask=(p < P)[:, None])
            first += tl.sum(acc, 0)
            second += tl.sum(acc * acc, 0)
        keep(part, first, second, lane, co, CO)


@kernel
def forward(x, w, y, part, gates, runs, P, XS, YS, WS, HI: tl.constexpr, WI: tl.constexpr, HO: tl.constexpr,
            WO: tl.constexpr, ST: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr, T: tl.constexpr,
            BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, ITERS: tl.constexpr,
            PREC: tl.constexpr):  # fmt: skip
    """Convolve: y = conv(x), 3×3 (T = 9) or 1×1 (T = 1), of stride ST; part = Σy, Σy²."""
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        ci, co = tl.arange(0, BK), tl.program_id(2) * BN + tl.arange(0, BN)
        wl = w + tl.load(runs + lane) * WS
        xl, yl = x + lane.to(tl.int64) * XS, y + lane.to(tl.int64) * YS
        first, second = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            n, h, c = pixel(p, HO, WO)
            acc = tl.zeros((BM, BN), tl.float32)
            for tap in tl.static_range(T):
                hi = h * ST + (tap // 3 - 1) * (T // 9)
                wi = c * ST + (tap % 3 - 1) * (T // 9)
                ok = (p < P) & (hi >= 0) & (hi < HI) & (wi >= 0) & (wi < WI)
                at = tl.where(ok, (n * HI + hi) * WI + wi, 0) * CI
                for k in tl.static_range(CI // BK):
                    a = tl.load(xl + at[:, None] + k * BK + ci[None, :], mask=ok[:, None], other=0.0)
                    b = tl.load(wl + (tap * CI + k * BK + ci)[:, None] * CO + co[None, :])
                    acc = tl.dot(a, b, acc, input_precision=PREC)
            tl.store(yl + p[:, None] * CO + co[None, :], acc.to(y.dtype.element_ty), mask=(p < P)[:, None])
            first += tl.sum(acc, 0)
            second += tl.sum(acc * acc, 0)
        keep(part, first, second, lane, co, CO)


@triton.jit
def norm(part, gamma, beta, stat, gate, lane, run, WS, count, eps, C: tl.constexpr, G: tl.constexpr,
         GP: tl.constexpr):  # fmt: skip
    """Scale and shift of a batch norm, the gate inside; the lane's first program keeps stat (R, 5, C).

    stat: mean, 1/σ, scale, shift, unbiased variance.
    """
    c = tl.arange(0, C)
    first, second = total(part, lane, c, C, G, GP)
    mean = first / count
    var = tl.maximum(second / count - mean * mean, 0.0)
    rstd = 1.0 / tl.sqrt(var + eps)
    scale = gate * tl.load(gamma + run * WS + c) * rstd
    shift = gate * tl.load(beta + run * WS + c) - mean * scale
    if tl.program_id(0) == 0:
        s = stat + lane * 5 * C + c
        tl.store(s, mean)
        tl.store(s + C, rstd)
        tl.store(s + 2 * C, scale)
        tl.store(s + 3 * C, shift)
        tl.store(s + 4 * C, var * count / (count - 1))
    return scale, shift


@kernel
def activate(z, part, gamma, beta, stat, h, part2, gamma2, beta2, stat2, gates, on, runs, out, P, S, WS, count, eps,
             C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, G2: tl.constexpr, GP2: tl.constexpr,
             BM: tl.constexpr, ITERS: tl.constexpr, RES: tl.constexpr):  # fmt: skip
    """Batch norm, residual sum and ReLU.

    out = ReLU(norm(z)) if RES = 0, ReLU(g·norm(z) + h) if 1, ReLU(g·norm(z) + norm2(h)) if 2. Where the gate is 0,
    RES = 0 returns at once and the others leave z out; where `on` is 0, the run rests.
    """
    lane = tl.program_id(1)
    gate = tl.load(gates + lane)
    here = gate != 0
    if RES != 0:
        here = tl.load(on + lane) != 0
    if here:
        run = tl.load(runs + lane)
        c = tl.arange(0, C)
        base = lane.to(tl.int64) * S
        scale, shift = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
        if gate != 0:
            scale, shift = norm(
                part, gamma, beta, stat, 1.0 if RES == 0 else gate, lane, run, WS, count, eps, C, G, GP
            )
        if RES == 2:
            scale2, shift2 = norm(part2, gamma2, beta2, stat2, 1.0, lane, run, WS, count, eps, C, G2, GP2)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            ok = (p < P)[:, None]
            at = base + p[:, None] * C + c[None, :]
            v = tl.zeros((BM, C), tl.float32)
            if gate != 0:
                v = tl.load(z + at, mask=ok, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
            if RES == 1:
                v += tl.load(h + at, mask=ok, other=0.0).to(tl.float32)
            if RES == 2:
                v += tl.load(h + at, mask=ok, other=0.0).to(tl.float32) * scale2[None, :] + shift2[None, :]
            tl.store(out + at, tl.maximum(v, 0.0).to(out.dtype.element_ty), mask=ok)


@triton.jit
def norm_backward(dm, z, at, in_, mean, rstd, scale, first, second):
    """Gradient of a convolution's output, from dm, that of its batch norm's, with the means of dm and dm·x̂."""
    d = tl.load(dm + at, mask=in_, other=0.0).to(tl.float32)
    x = (tl.load(z + at, mask=in_, other=0.0).to(tl.float32) - mean[None, :]) * rstd[None, :]
    return tl.where(in_, scale[None, :] * (d - first[None, :] - x * second[None, :]), 0.0)


@kernel
def stem_weights(images, draws, scale, shift, clock, dm, z, stat, back, gates, runs, dw, P, S, COUNT, count,
                 H: tl.constexpr, W: tl.constexpr, CH: tl.constexpr, PAD: tl.constexpr, CO: tl.constexpr,
                 G: tl.constexpr, GP: tl.constexpr, BM: tl.constexpr, ITERS: tl.constexpr,
                 PREC: tl.constexpr):  # fmt: skip
    """Partial gradients dw (R, G, 27, CO) of the stem's weights."""
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        run = tl.load(runs + lane)
        j, co = tl.arange(0, 32), tl.arange(0, CO)
        s = stat + lane * 5 * CO + co
        mean, rstd, factor = tl.load(s), tl.load(s + CO), tl.load(s + 2 * CO)
        first, second = total(back, lane, co, CO, G, GP)
        start = tl.load(clock + 2)
        acc = tl.zeros((32, CO), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            at = lane.to(tl.int64) * S + p[:, None] * CO + co[None, :]
            d = norm_backward(dm, z, at, (p < P)[:, None], mean, rstd, factor, first / count, second / count)
            d = d.to(z.dtype.element_ty)
            a = patch(images, draws + run * COUNT * 4, scale, shift, start, p, P, COUNT, H, W, CH, PAD)
            acc = tl.dot(tl.trans(a.to(d.dtype)), d, acc, input_precision=PREC)
        o = dw + (lane * tl.num_programs(0) + tl.program_id(0)) * 27 * CO
        tl.store(o + j[:, None] * CO + co[None, :], acc, mask=(j < 27)[:, None])


@kernel
def weights(dm, z, a, stat, back, gates, dz, dw, P, XS, YS, count, HI: tl.constexpr, WI: tl.constexpr,
            HO: tl.constexpr, WO: tl.constexpr, ST: tl.constexpr, CI: tl.constexpr, CO: tl.constexpr,
            T: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, BM: tl.constexpr, BI: tl.constexpr,
            BN: tl.constexpr, ITERS: tl.constexpr, PREC: tl.constexpr):  # fmt: skip
    """Gradients of weights: partial ones, dw (R, G, T, CI, CO); and dz, batch norm's, written once for `inputs`.

    The third axis of programs is (row of taps, block of CI, block of CO).
    """
    lane = tl.program_id(1)
    if tl.load(gates + lane) != 0:
        block = tl.program_id(2) // (CO // BN)
        row = block // (CI // BI)
        ci = (block % (CI // BI)) * BI + tl.arange(0, BI)
        co = (tl.program_id(2) % (CO // BN)) * BN + tl.arange(0, BN)
        s = stat + lane * 5 * CO + co
        mean, rstd, scale = tl.load(s), tl.load(s + CO), tl.load(s + 2 * CO)
        first, second = total(back, lane, co, CO, G, GP)
        acc0 = tl.zeros((BI, BN), tl.float32)
        if T == 9:
            acc1 = tl.zeros((BI, BN), tl.float32)
            acc2 = tl.zeros((BI, BN), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            n, h, c = pixel(p, HO, WO)
            in_ = (p < P)[:, None]
            at = lane.to(tl.int64) * YS + p[:, None] * CO + co[None, :]
            d = norm_backward(dm, z, at, in_, mean, rstd, scale, first / count, second / count)
            d = d.to(dz.dtype.element_ty)
            if block == 0:
                tl.store(dz + at, d, mask=in_)
            hi = h * ST + (row - 1) * (T // 9)
            for j in tl.static_range(3 if T == 9 else 1):
                wi = c * ST + (j - 1) * (T // 9)
                ok = (p < P) & (hi >= 0) & (hi < HI) & (wi >= 0) & (wi < WI)
                src = tl.where(ok, (n * HI + hi) * WI + wi, 0) * CI
                v = tl.load(
                    a + lane.to(tl.int64) * XS + src[:, None] + ci[None, :], mask=ok[:, None], other=0.0
                )
                if j == 0:
                    acc0 = tl.dot(tl.trans(v), d, acc0, input_precision=PREC)
                elif j == 1:
                    acc1 = tl.dot(tl.trans(v), d, acc1, input_precision=PREC)
                else:
                    acc2 = tl.dot(tl.trans(v), d, acc2, input_precision=PREC)
        o = dw + ((lane * tl.num_programs(0) + tl.program_id(0)) * T + row * 3) * CI * CO
        o += ci[:, None] * CO + co[None, :]
        tl.store(o, acc0)
        if T == 9:
            tl.store(o + CI * CO, acc1)
            tl.store(o + 2 * CI * CO, acc2)


@kernel
def inputs(dz, w, skip, z, stat, h, gates, before, on, runs, out, part, P, XS, YS, WS, HI: tl.constexpr,
           WI: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, ST: tl.constexpr, CI: tl.constexpr,
           CO: tl.constexpr, T: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
           ITERS: tl.constexpr, MASK: tl.constexpr, PREC: tl.constexpr):  # fmt: skip
    """Gradient `out` of a convolution's input x; with MASK, of what came before the ReLU that made x.

    (HI, WI, CI) is the side of the gradient that is made, (HO, WO, CO) that of dz. MASK 0: as it is. 1: x is
    ReLU(norm(z)), an inner layer. 2: x is h, a block's input; `skip` is added, a dropped lane has nothing else, and
    z is the last convolution of the block before, if that was not dropped (`before`). part = Σout, Σout·x̂ of z.
    """
    lane = tl.program_id(1)
    live = tl.load(gates + lane) != 0
    here = live
    if MASK == 2:
        here = tl.load(on + lane) != 0
    if here:
        ci, co = tl.program_id(2) * BN + tl.arange(0, BN), tl.arange(0, BK)
        wl = w + tl.load(runs + lane) * WS
        s = stat + lane * 5 * CI + ci
        had = tl.load(before + lane) != 0
        base = lane.to(tl.int64) * XS
        first, second = tl.zeros((BN,), tl.float32), tl.zeros((BN,), tl.float32)
        for i in range(ITERS):
            p = (tl.program_id(0) + i * tl.num_programs(0)) * BM + tl.arange(0, BM)
            n, r, c = pixel(p, HI, WI)
            in_ = (p < P)[:, None]
            at = base + p[:, None] * CI + ci[None, :]
            acc = tl.zeros((BM, BN), tl.float32)
            if live:
                for tap in tl.static_range(T):
                    hs = r + (1 - tap // 3) * (T // 9)
                    ws = c + (1 - tap % 3) * (T // 9)
                    ho, wo = hs // ST, ws // ST
                    ok = (p < P) & (hs >= 0) & (ho < HO) & (ws >= 0) & (wo < WO)
                    if ST != 1:
                        ok = ok & (hs % ST == 0) & (ws % ST == 0)
                    src = lane.to(tl.int64) * YS + tl.where(ok, (n * HO + ho) * WO + wo, 0) * CO
                    for k in tl.static_range(CO // BK):
                        d = tl.load(dz + src[:, None] + k * BK + co[None, :], mask=ok[:, None], other=0.0)
                        b = tl.load(wl + (tap * CI + ci)[None, :] * CO + k * BK + co[:, None])
                        acc = tl.dot(d, b, acc, input_precision=PREC)
            if MASK == 2:
                acc += tl.load(skip + at, mask=in_, other=0.0).to(tl.float32)
                acc = tl.where(in_ & (tl.load(h + at, mask=in_, other=0.0) > 0), acc, 0.0)
            if MASK != 0:
                x = tl.zeros((BM, BN), tl.float32)
                if had:
                    x = tl.load(z + at, mask=in_, other=0.0).to(tl.float32)
                if MASK == 1:
                    on_ = x * tl.load(s + 2 * CI)[None, :] + tl.load(s + 3 * CI)[None, :] > 0
                    acc = tl.where(in_ & on_, acc, 0.0)
                first += tl.sum(acc, 0)
                second += tl.sum(acc * (x - tl.load(s)[None, :]) * tl.load(s + CI)[None, :], 0)
            tl.store(out + at, acc.to(out.dtype.element_ty), mask=in_)
        if MASK != 0:
            keep(part, first, second, lane, ci, CI)
