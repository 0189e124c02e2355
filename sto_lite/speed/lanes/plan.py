"""A training step of several runs as a list of launches (chapter 7): forward, loss, backward, update.

Runs share network, image set, image size and batch size; method, seed, rate and length are each run's own. Nothing
here waits for the device, and nothing depends on a number that lives there: the same launches serve every step.
"""

from typing import Any

from torch import Tensor

from sto_lite.speed.lanes import ends, kernels
from sto_lite.speed.lanes.layout import HEAD, Layer, Layout, power

WIDE = {9: 64, 1: 128}  # channels that a program makes at once, by taps; more would spill


class Plan(Layout):
    """The launches of a step."""

    def step(self, images: int) -> None:
        """One step of all runs on `images` images each."""
        size = self.now.numel()
        ends.begin[(1,)](self.clock, self.gates, self.now, self.batch, size, B=power(size))
        self.forward(images)
        self.backward(images)
        self.update()

    def _augmented(self) -> tuple[Tensor, ...]:
        b = self.batches
        return b.padded, self.draws, b.scale, b.shift, self.clock

    def _geometry(self, x: Layer) -> dict[str, int]:
        if x is self.stem:
            pad, channels = self.batches.pad * self.batches.augment, self.batches.split.images.shape[1]
            return {"H": self.size, "W": self.size, "CH": channels, "PAD": pad, "CO": x.co}
        return {
            "HI": x.size, "WI": x.size, "HO": x.out, "WO": x.out, "ST": x.stride, "CI": x.ci, "CO": x.co, "T": x.taps,
        }  # fmt: skip

    def _cut(self, kernel: str, x: Layer) -> tuple[int, dict[str, Any]]:
        """Programs of a kernel that multiplies matrices, and its constants."""
        tile, programs, iters = self.cut(kernel, x)
        return programs, {
            **self._geometry(x), "BM": tile.pixels, "ITERS": iters, "PREC": self.precision, "num_warps": tile.warps,
            "num_stages": tile.stages,
        }  # fmt: skip

    def convolve(self, x: Layer, source: Tensor | None, n: int) -> None:
        """Convolve the source to z, with its sums; the stem has no source, it makes the batch itself."""
        programs, more = self._cut("forward", x)
        w, p, ws = self.weight(self.rows.low, f"{x.name}.weight"), n * x.out**2, self.rows.low.shape[1]
        gates = self.gate(x.row)
        if source is None:
            count = len(self.batches.split)
            kernels.stem_forward[(programs, self.lanes)](
                *self._augmented(), w, x.z, x.part, gates, self.runs, p, x.z[0].numel(), ws, count, **more,
            )  # fmt: skip
            return
        block = min(x.co, WIDE[x.taps])
        kernels.forward[(programs, self.lanes, x.co // block)](
            source, w, x.z, x.part, gates, self.runs, p, source[0].numel(), x.z[0].numel(), ws,
            BK=min(x.ci, 64), BN=block, **more,
        )  # fmt: skip

    def _norm(self, x: Layer) -> tuple[Tensor, ...]:
        rows = self.rows.master
        return x.part, self.weight(rows, f"{x.norm}.weight"), self.weight(rows, f"{x.norm}.bias"), x.stat

    def activate(
        self, x: Layer, out: Tensor, n: int, h: Tensor | None = None, projection: Layer | None = None
    ) -> None:
        """From z to out = ReLU(norm(z)), or with a block's input h or projection added."""
        tile, programs, iters = self.cut("activate", x)
        other = projection or x
        source = projection.z if projection else h if h is not None else x.z
        eps = self.model.stem[1].eps
        kernels.activate[(programs, self.lanes)](
            x.z, *self._norm(x), source, *self._norm(other), self.gate(x.row), self.gate(self.always), self.runs,
            out, n * x.out**2, x.z[0].numel(), self.rows.master.shape[1], float(n * x.out**2), eps,
            C=x.co, G=x.part.shape[1], GP=power(x.part.shape[1]), G2=other.part.shape[1],
            GP2=power(other.part.shape[1]), BM=tile.pixels, ITERS=iters,
            RES=2 if projection else 1 if h is not None else 0, num_warps=tile.warps,
        )  # fmt: skip

    def forward(self, n: int) -> None:
        """From the images to the features."""
        self.convolve(self.stem, None, n)
        self.activate(self.stem, self.entry, n)
        h = self.entry
        for unit in self.units:
            x = h
            for layer, inner in zip(unit.layers, unit.inner, strict=False):
                self.convolve(layer, x, n)
                self.activate(layer, inner, n)
                x = inner
            self.convolve(unit.layers[-1], x, n)
            if unit.projection:
                self.convolve(unit.projection, h, n)
            self.activate(unit.layers[-1], unit.out, n, h, unit.projection)
            h = unit.out
        q, gates = unit.layers[-1].out ** 2, self.gate(self.always)
        ends.pool[(n, self.lanes)](
            h, gates, self.features, self.batch, h[0].numel(), Q=q, QP=power(q), C=h.shape[-1]
        )

    def loss(self, n: int) -> None:
        """Classifier and losses, forward and backward, to the gradient of the features."""
        master = self.rows.master
        ends.head[(self.head_tiles, len(self.roles))](
            self.features, self.weight(master, "classifier.weight"), self.weight(master, "classifier.bias"),
            self.batches.split.labels, self.draws, self.clock, self.first, self.rules, self.gate(self.always),
            self.feature_grad, self.head_weight, self.head_bias, self.losses, n, master.shape[1],
            len(self.batches.split), self.batch, C=self.features.shape[-1],
            CLASSES=self.classes, CB=min(64, 8192 // self.features.shape[-1]), DB=self.head_bias.shape[2],
            CL=max(16, power(self.classes)), BM=HEAD, STUDENTS=self.most - 1,
        )  # fmt: skip

    def sums(self, x: Layer, dm: Tensor, n: int, h: Tensor | None = None) -> None:
        """Sums of dm for the layer's batch norm; with h, of the last block, dm itself first."""
        tile, programs, iters = self.cut("sums", x)
        ends.sums[(programs, self.lanes)](
            self.feature_grad, dm if h is None else h, dm, x.z, x.stat, self.gate(self.always, True), x.back,
            n * x.out**2, self.batch, x.z[0].numel(), Q=x.out**2, C=x.co, BM=tile.pixels, ITERS=iters,
            SPREAD=h is not None, num_warps=tile.warps,
        )  # fmt: skip

    def weights(self, x: Layer, dm: Tensor, source: Tensor | None, n: int) -> Tensor:
        """Partial gradients of the layer's weights; gives the gradient of its z."""
        programs, more = self._cut("weights", x)
        p, back = n * x.out**2, x.back.shape[1]
        more |= {"G": back, "GP": power(back)}
        gates = self.gate(x.row, True)
        if source is None:
            kernels.stem_weights[(programs, self.lanes)](
                *self._augmented(), dm, x.z, x.stat, x.back, gates, self.runs, x.grad, p, x.z[0].numel(),
                len(self.batches.split), float(p), **more,
            )  # fmt: skip
            return dm
        dz = self._scratch("dz", x.z)
        bi, bn = min(x.ci, 64), min(x.co, 64)
        blocks = (3 if x.taps == 9 else 1) * (x.ci // bi) * (x.co // bn)
        kernels.weights[(programs, self.lanes, blocks)](
            dm, x.z, source, x.stat, x.back, gates, dz, x.grad, p, source[0].numel(), x.z[0].numel(), float(p),
            BI=bi, BN=bn, **more,
        )  # fmt: skip
        return dz

    def inputs(self, x: Layer, dz: Tensor, out: Tensor, n: int, below: Layer | None, skip: Tensor | None = None,
               h: Tensor | None = None) -> None:  # fmt: skip
        """The gradient of the layer's input, for the layer `below` (None: as it is); skip, h at a block's input."""
        programs, more = self._cut("inputs", x)
        mask = 0 if below is None else 1 if h is None else 2
        block = min(x.ci, WIDE[x.taps])
        ref, low = below or x, self.rows.low
        kernels.inputs[(programs, self.lanes, x.ci // block)](
            dz, self.weight(low, f"{x.name}.weight"), dz if skip is None else skip, ref.z if below else dz, ref.stat,
            h if h is not None else dz, self.gate(x.row, True), self.gate(ref.row, True),
            self.gate(self.always, True), self.runs, out, ref.back, n * x.size**2, out[0].numel(), x.z[0].numel(),
            low.shape[1], BK=min(x.co, 64), BN=block, MASK=mask, **more,
        )  # fmt: skip

    def backward(self, n: int) -> None:
        """From the features to partial gradients of everything."""
        self.loss(n)
        outputs = [self.entry, *(unit.out for unit in self.units)]
        dm = self._scratch("even" if len(self.units) % 2 == 0 else "odd", outputs[-1])
        self.sums(self.units[-1].layers[-1], dm, n, outputs[-1])
        for number in range(len(self.units) - 1, -1, -1):
            unit, h = self.units[number], outputs[number]
            below = self.units[number - 1].layers[-1] if number else self.stem
            skip, d = dm, dm
            if unit.projection:
                self.sums(unit.projection, dm, n)
                dz = self.weights(unit.projection, dm, h, n)
                skip = self._scratch("skip", h)
                self.inputs(unit.projection, dz, skip, n, None)
            for i in range(len(unit.layers) - 1, 0, -1):
                dz = self.weights(unit.layers[i], d, unit.inner[i - 1], n)
                d = self._scratch("inner", unit.inner[i - 1])
                self.inputs(unit.layers[i], dz, d, n, unit.layers[i - 1])
            dz = self.weights(unit.layers[0], d, h, n)
            dm = self._scratch("even" if number % 2 == 0 else "odd", h)
            self.inputs(unit.layers[0], dz, dm, n, below, skip, h)
        self.weights(self.stem, dm, None, n)

    def update(self) -> None:
        """Weights, momentum and running statistics."""
        rows, runs = self.rows, len(self.roles)
        ends.update[(len(self.table), runs)](
            self.table, self.grads, rows.master, rows.momentum, rows.low, self.first, self.now[1], self.hyper,
            self.lanes, rows.master.shape[1], B=self.updated, SMAX=self.most,
        )  # fmt: skip
        widest = max(self.rows.norms.values())
        ends.settle[(len(self.norm_table), runs)](
            self.norm_table, self.stats, rows.running, rows.passed, self.first, self.counted, self.now[0],
            self.lanes, len(self.norm_table), rows.running.shape[1], self.model.stem[1].momentum, C=power(widest),
            SMAX=self.most,
        )  # fmt: skip
