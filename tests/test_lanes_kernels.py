"""Chapter 7's kernels, one by one, beside PyTorch in float64: gradients are autograd's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lanes_device import DEVICE

pytest.importorskip("triton")
from sto_lite.data import Batches, Split
from sto_lite.losses import sto_terms
from sto_lite.speed.lanes import ends, kernels
from sto_lite.speed.lanes.layout import power
from sto_lite.speed.lanes.running import draw_batches
from tests.samples import rng

RUNS = torch.tensor([0, 0, 1], dtype=torch.int32, device=DEVICE)  # three lanes of two runs
LANES, EPS, SENTINEL = 3, 1e-5, 77.0
SHAPES = st.fixed_dictionaries(
    {
        "ci": st.sampled_from([16, 32, 64, 128]),
        "co": st.sampled_from([16, 32, 64, 128]),
        "taps": st.sampled_from([9, 1]),
        "stride": st.sampled_from([1, 2]),
        "size": st.integers(3, 6),
        "images": st.integers(1, 3),
        "pixels": st.sampled_from([16, 32]),
        "programs": st.integers(1, 3),
        "gates": st.lists(st.sampled_from([0.0, 0.6, 1.0]), min_size=LANES, max_size=LANES),
        "seed": st.integers(0, 999),
    }
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def close(ours, theirs, tolerance=1e-5):
    """Within the tolerance, relative to the largest."""
    theirs = theirs.to(ours.device)
    assert ours.shape == theirs.shape
    scale = max(theirs.abs().max().item(), 1e-3)
    assert (ours.double() - theirs.double()).abs().max().item() <= tolerance * scale


class Case:
    """A convolution with its batch norm for three lanes, in float64, and how its kernels are launched."""

    def __init__(self, ci, co, taps, stride, size, images, pixels, programs, gates, seed):
        self.ci, self.co, self.taps, self.stride, self.size, self.n = ci, co, taps, stride, size, images
        self.out, self.pixels, self.programs = -(-size // stride), pixels, programs
        self.gates = torch.tensor(gates, device=DEVICE)
        self.x = normal(LANES, images, size, size, ci, seed=seed).relu()
        self.rows = normal(2, 32 + taps * ci * co, seed=seed + 1) / (taps * ci) ** 0.5
        self.w = self.rows[0, 16:]  # weights lie inside a row
        self.gamma, self.beta = normal(2, co, seed=seed + 2) + 1, normal(2, co, seed=seed + 3)
        self.dm = normal(LANES, images, self.out, self.out, co, seed=seed + 4)
        self.z = torch.full_like(self.dm, SENTINEL)

    def conv(self, x, lane):
        """(N, H, W, C) -> z in float64, and the weight it came from."""
        side = 3 if self.taps == 9 else 1
        row = self.rows[RUNS[lane], 16 : 16 + self.taps * self.ci * self.co].double()
        w = row.view(side, side, self.ci, self.co).permute(3, 2, 0, 1).clone().requires_grad_()
        z = F.conv2d(x.permute(0, 3, 1, 2), w, stride=self.stride, padding=side // 2)
        return z.permute(0, 2, 3, 1), w

    def norm(self, z, lane, gate):
        """Batch norm with the gate inside, in float64."""
        gamma, beta = self.gamma[RUNS[lane]].double(), self.beta[RUNS[lane]].double()
        y = F.batch_norm(z.permute(0, 3, 1, 2), None, None, gamma, beta, True)
        return gate * y.permute(0, 2, 3, 1)

    def grid(self, size):
        tiles = -(-self.n * size**2 // self.pixels)
        programs = min(self.programs, tiles)
        return programs, {"BM": self.pixels, "ITERS": -(-tiles // programs), "PREC": "ieee"}

    def geometry(self):
        names = ("HI", "WI", "HO", "WO", "ST", "CI", "CO", "T")
        values = (self.size, self.size, self.out, self.out, self.stride, self.ci, self.co, self.taps)
        return dict(zip(names, values, strict=True))

    def sizes(self):
        return self.x[0].numel(), self.dm[0].numel()


def partial(first, second, parts=3):
    """Two sums (R, C) as a kernel leaves them: in parts of different size."""
    share = torch.tensor([0.5, 0.3, 0.2], device=DEVICE)[:parts, None, None]
    return torch.stack([torch.stack([a, b]) * share for a, b in zip(first, second, strict=True)]).contiguous()


def statistics(z, gamma, beta, gates):
    """stat (R, 5, C) of lanes' z, as `norm` leaves it."""
    mean, var = z.mean((1, 2, 3)), z.var((1, 2, 3), correction=0)
    rstd = (var + EPS).rsqrt()
    scale = gates[:, None] * gamma * rstd
    count, shift = z[0].numel() // z.shape[-1], gates[:, None] * beta - mean * scale
    return torch.stack([mean, rstd, scale, shift, var * count / (count - 1)], 1)


def hat(z):
    """x̂ of lanes' z."""
    z, axes = z.double(), (1, 2, 3)
    return (z - z.mean(axes, keepdim=True)) * (z.var(axes, correction=0, keepdim=True) + EPS).rsqrt()


@settings(max_examples=14)
@given(SHAPES)
def test_forward(shape):
    case = Case(**shape)
    programs, more = case.grid(case.out)
    part, block = torch.zeros(LANES, programs, 2, case.co, device=DEVICE), min(case.co, 64)
    kernels.forward[(programs, LANES, case.co // block)](
        case.x, case.w, case.z, part, case.gates, RUNS, case.n * case.out**2, *case.sizes(), case.rows.shape[1],
        **case.geometry(), BK=min(case.ci, 64), BN=block, **more,
    )  # fmt: skip
    for lane, gate in enumerate(case.gates.tolist()):
        if gate == 0:
            assert (case.z[lane] == SENTINEL).all() and (part[lane] == 0).all()  # it returned at once
            continue
        z = case.conv(case.x[lane].double(), lane)[0].detach()
        close(case.z[lane], z)
        close(part[lane].sum(0), torch.stack([z.sum((0, 1, 2)), (z * z).sum((0, 1, 2))]))


@settings(max_examples=18)
@given(SHAPES, st.sampled_from([0, 1, 2]), st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3))
def test_gradients(shape, mask, before):
    """weights and inputs: batch norm's gradient, the weights', and the input's down to the layer before."""
    case = Case(**shape)
    if case.n * case.out**2 < 2:
        return
    before = torch.tensor(before, device=DEVICE)
    below = normal(LANES, case.n, case.size, case.size, case.ci, seed=9)  # z of the layer before
    gamma, beta = normal(LANES, case.ci, seed=10) + 1, normal(LANES, case.ci, seed=11)
    stat_below = statistics(below, gamma, beta, torch.ones(LANES, device=DEVICE)).contiguous()
    if mask == 1:
        view = (LANES, 1, 1, 1, case.ci)
        case.x = (below * stat_below[:, 2].view(view) + stat_below[:, 3].view(view)).relu().contiguous()
    skip = normal(*case.x.shape, seed=12)
    z = torch.stack([case.conv(case.x[lane].double(), lane)[0].detach() for lane in range(LANES)])
    case.z = z.float().contiguous()
    stat = statistics(z, case.gamma[RUNS.long()], case.beta[RUNS.long()], case.gates).float().contiguous()
    sums = (case.dm.double().sum((1, 2, 3)), (case.dm.double() * hat(z)).sum((1, 2, 3)))
    back = partial(*(s.float() for s in sums))
    programs, more = case.grid(case.out)
    dz = torch.full_like(case.z, SENTINEL)
    dw = torch.full((LANES, programs, case.taps, case.ci, case.co), SENTINEL, device=DEVICE)
    bi, bn = min(case.ci, 64), min(case.co, 64)
    blocks = (3 if case.taps == 9 else 1) * (case.ci // bi) * (case.co // bn)
    p = case.n * case.out**2
    kernels.weights[(programs, LANES, blocks)](
        case.dm, case.z, case.x, stat, back, case.gates, dz, dw, p, *case.sizes(), float(p), **case.geometry(),
        G=3, GP=4, BI=bi, BN=bn, **more,
    )  # fmt: skip
    programs, more = case.grid(case.size)
    out = torch.full_like(case.x, SENTINEL)
    part = torch.zeros(LANES, programs, 2, case.ci, device=DEVICE)
    kernels.inputs[(programs, LANES, case.ci // bi)](
        dz, case.w, skip, below, stat_below, case.x, case.gates, before if mask == 2 else case.gates,
        torch.ones(LANES, device=DEVICE), RUNS, out, part, case.n * case.size**2, *case.sizes(),
        case.rows.shape[1], **case.geometry(), BK=min(case.co, 64), BN=bi, MASK=mask, **more,
    )  # fmt: skip
    for lane, gate in enumerate(case.gates.tolist()):
        x = case.x[lane].double().requires_grad_()
        made, w = case.conv(x, lane)
        case.norm(made, lane, gate).backward(case.dm[lane].double())
        if gate == 0:
            assert (dw[lane] == SENTINEL).all() and (dz[lane] == SENTINEL).all()
        else:
            close(dw[lane].sum(0).flatten(), w.grad.permute(2, 3, 1, 0).flatten(), 1e-4)
        if gate == 0 and mask != 2:
            assert (out[lane] == SENTINEL).all()
            continue
        wanted = x.grad if gate else 0 * x.grad
        if mask:
            wanted = (wanted + skip[lane] if mask == 2 else wanted) * (case.x[lane] > 0)
        close(out[lane], wanted, 1e-4)
        if mask:
            close(part[lane, :, 0].sum(0), wanted.sum((0, 1, 2)), 1e-4)
        if mask == 1 or (mask and before[lane]):
            close(part[lane, :, 1].sum(0), (wanted * hat(below)[lane]).sum((0, 1, 2)), 1e-4)


@settings(max_examples=12)
@given(SHAPES, st.sampled_from([0, 1, 2]))
def test_activate(shape, kind):
    """Batch norm with its statistics, the residual sum, ReLU: an inner layer, an identity, a projection."""
    case = Case(**{**shape, "images": 2})
    z, h = normal(*case.dm.shape, seed=1), normal(*case.dm.shape, seed=2)
    on = torch.tensor([1.0, 1.0, 0.0], device=DEVICE)
    gates = case.gates * on
    rows = torch.stack([case.gamma, case.beta], 1).contiguous()  # (K, 2, C): at a stride of 2 C
    moments = [partial(t.sum((1, 2, 3)), (t * t).sum((1, 2, 3))) for t in (z, h)]
    stats = [torch.zeros(LANES, 5, case.co, device=DEVICE) for _ in range(2)]
    out, (programs, more) = torch.full_like(z, SENTINEL), case.grid(case.out)
    p, gamma, beta = case.n * case.out**2, rows[0, 0], rows[0, 1]
    kernels.activate[(programs, LANES)](
        z, moments[0], gamma, beta, stats[0], h, moments[1], gamma, beta, stats[1], gates, on, RUNS, out, p,
        z[0].numel(), 2 * case.co, float(p), EPS, C=case.co, G=3, GP=4, G2=3, GP2=4, BM=more["BM"],
        ITERS=more["ITERS"], RES=kind,
    )  # fmt: skip
    exact = statistics(z.double(), case.gamma[RUNS.long()], case.beta[RUNS.long()], gates if kind else on)
    for lane, gate in enumerate(gates.tolist()):
        if not on[lane] or (kind == 0 and gate == 0):
            assert (out[lane] == SENTINEL).all()
            continue
        wanted = case.norm(z[lane].double(), lane, gate if kind else 1.0) if gate else 0 * z[lane].double()
        wanted += (0.0, h[lane], case.norm(h[lane].double(), lane, 1.0))[kind]
        close(out[lane], wanted.relu())
        if gate:
            close(stats[0][lane], exact[lane], 1e-4)


@pytest.mark.parametrize(("channels", "augment"), [(1, True), (3, True), (3, False)])
def test_stem(channels, augment):
    """The batch that a run's generator draws, made inside the convolution, and the stem's gradient."""
    dice = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (7, channels, 6, 6), generator=dice, dtype=torch.uint8)
    split, (mean, std) = Split(pixels, torch.zeros(7, dtype=torch.int64)), torch.rand(2, channels)
    batches = Batches(split, mean, std + 0.2, 3, augment, device=DEVICE)
    draws = torch.stack([draw_batches(7, batches.pad, augment, rng(run)) for run in range(2)]).to(DEVICE)
    clock = torch.tensor([2, 1, 3, 0], dtype=torch.int32, device=DEVICE)  # the second batch
    rows, gates = normal(2, 16 + 27 * 16), torch.tensor([1.0, 0.0, 1.0], device=DEVICE)
    y = torch.full((LANES, 3, 6, 6, 16), SENTINEL, device=DEVICE)
    part, p = torch.zeros(LANES, 2, 2, 16, device=DEVICE), 3 * 36
    pad = batches.pad if augment else 0
    shape = {"H": 6, "W": 6, "CH": channels, "PAD": pad, "CO": 16, "BM": 32, "ITERS": 2}
    start = (batches.padded, draws, batches.scale, batches.shift, clock)
    kernels.stem_forward[(2, LANES)](
        *start, rows[0, 16:], y, part, gates, RUNS, p, y[0].numel(), rows.shape[1], 7, **shape, PREC="ieee"
    )
    # Batch norm's gradient is the identity where its sums are 0 and its scale is 1.
    stat, dm = torch.zeros(LANES, 5, 16, device=DEVICE), normal(*y.shape, seed=5)
    stat[:, 1:3] = 1
    dw = torch.full((LANES, 2, 27, 16), SENTINEL, device=DEVICE)
    kernels.stem_weights[(2, LANES)](
        *start, dm, y, stat, torch.zeros(LANES, 1, 2, 16, device=DEVICE), gates, RUNS, dw, p, y[0].numel(), 7,
        float(p), **shape, G=1, GP=1, PREC="ieee",
    )  # fmt: skip
    for lane in (0, 2):
        _, (images, _), *_ = batches.epoch(torch.Generator().manual_seed(int(RUNS[lane])))
        w = rows[RUNS[lane], 16:].double().view(3, 3, 3, 16).permute(3, 2, 0, 1).clone().requires_grad_()
        z = F.conv2d(images.double(), w, padding=1).permute(0, 2, 3, 1)
        z.backward(dm[lane].double())
        close(y[lane], z.detach())
        close(part[lane].sum(0), torch.stack([z.sum((0, 1, 2)), (z * z).sum((0, 1, 2))]).detach())
        close(dw[lane].sum(0).flatten(), w.grad.permute(2, 3, 1, 0).flatten())
    assert (y[1] == SENTINEL).all() and (dw[1] == SENTINEL).all()


@settings(max_examples=12)
@given(
    st.sampled_from([7, 20]),
    st.integers(1, 18),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([0.0, 0.25]),
    st.booleans(),
)
def test_head(classes, images, temperature, lam, detach):
    """Two runs, the first with two students and a teacher, the second with one lane: Eq. 9, and cross-entropy."""
    c, count, tiles = 32, 40, 2
    lanes, stride = 4, classes * c + classes + 16
    features, rows = normal(lanes, 20, c, seed=images), normal(2, stride, seed=2)
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    draws = torch.stack([draw_batches(count, 4, True, rng(run)) for run in range(2)]).to(DEVICE)
    clock = torch.tensor([2, 1, 20, 0], dtype=torch.int32, device=DEVICE)
    first = torch.tensor([0, 3, 4], dtype=torch.int32, device=DEVICE)
    rules = torch.tensor([[temperature, lam, float(detach)], [1.0, 0.0, 1.0]], device=DEVICE)
    dx, dw = torch.zeros(lanes, 20, c, device=DEVICE), torch.zeros(lanes, tiles, classes, c, device=DEVICE)
    db, losses = torch.zeros(lanes, tiles, 32, device=DEVICE), torch.zeros(2, 2, tiles, 4, device=DEVICE)
    ends.head[(tiles, 2)](
        features, rows[0], rows[0, classes * c :], labels, draws, clock, first, rules,
        torch.ones(lanes, device=DEVICE), dx, dw, db, losses, images, stride, count, 20, C=c, CLASSES=classes,
        DB=32, CB=16, CL=max(16, power(classes)), BM=16, STUDENTS=2,
    )  # fmt: skip
    for run, members in enumerate(([0, 1, 2], [3])):
        x = features[members, :images].double().requires_grad_()
        ws = [rows[run, : classes * c].double().view(classes, c).clone().requires_grad_() for _ in members]
        bs = [rows[run, classes * c :][:classes].double().clone().requires_grad_() for _ in members]
        logits = [x[i] @ ws[i].T + bs[i] for i in range(len(members))]
        y = labels[draws[run, 20 : 20 + images, 0].long()]
        if run == 0:
            students = torch.cat(logits[:2])
            terms = sto_terms(students, logits[2].repeat(2, 1), y.repeat(2), temperature, lam, detach)
        else:
            terms = (torch.zeros(()), F.cross_entropy(logits[0], y), torch.zeros(()))
        sum(terms).backward()
        wrong = (logits[-1].argmax(1) != y).sum()
        wanted = [*(float(t.detach()) * images for t in terms), float(wrong)]
        close(losses[1, run].sum(0), torch.tensor(wanted))
        for i, lane in enumerate(members):
            close(dx[lane, :images], x.grad[i])
            close(dw[lane].sum(0), ws[i].grad)
            close(db[lane].sum(0)[:classes], bs[i].grad)


def test_pool_and_sums():
    """Features are means over pixels; their gradient goes to every pixel that the ReLU let through."""
    q, n, c = 9, 3, 64
    h, z = normal(LANES, n, 3, 3, c).relu(), normal(LANES, n, 3, 3, c, seed=1)
    on = torch.tensor([1.0, 0.0, 1.0], device=DEVICE)
    features, dx = torch.full((LANES, n, c), SENTINEL, device=DEVICE), normal(LANES, n, c, seed=2)
    ends.pool[(n, LANES)](h, on, features, n, h[0].numel(), Q=q, QP=16, C=c)
    one = torch.ones(LANES, device=DEVICE)
    stat = statistics(z, 1.0, 0.0, one).contiguous()
    dm = torch.full_like(z, SENTINEL)
    parts = [torch.zeros(LANES, 2, 2, c, device=DEVICE) for _ in range(2)]
    for spread, part in zip((True, False), parts, strict=True):
        ends.sums[(2, LANES)](
            dx, h, dm, z, stat, on, part, n * q, n, h[0].numel(), Q=q, C=c, BM=8, ITERS=2, SPREAD=spread
        )
    wanted = (dx[:, :, None, None, :] / q).expand(z.shape) * (h > 0)
    for lane in (0, 2):
        close(features[lane], h[lane].mean((1, 2)))
        close(dm[lane], wanted[lane])
        for part in parts:
            close(part[lane].sum(0)[0], wanted[lane].sum((0, 1, 2)))
            close(part[lane].sum(0)[1], (wanted * hat(z))[lane].sum((0, 1, 2)))
    assert (features[1] == SENTINEL).all() and (dm[1] == SENTINEL).all()
