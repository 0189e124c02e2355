// A trained ResNet-14 that computes in the page: chapter 2's network, with one gate for each block (Eqs. 3 to 5).
"use strict";

const Alive = (() => {
  // ------------------------------------------------------------------------------------------ the network

  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

  /** IEEE half precision, little-endian, as numbers. */
  function halves(text) {
    const raw = new Uint16Array(bytes(text).buffer);
    return Float32Array.from(raw, bits => {
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
    });
  }

  /** A convolution that keeps the size up to its stride, with its batch norm's scale and shift folded in. */
  function fused(values, conv, norm, stride) {
    const [outputs, inputs, kernel] = values[`${conv}.weight`].shape;
    const of = name => values[`${norm}.${name}`].data;
    const scale = of("weight").map((gamma, o) => gamma / Math.sqrt(of("running_var")[o] + 1e-5));
    const weight = values[`${conv}.weight`].data.map((w, i) => w * scale[Math.floor(i / (inputs * kernel ** 2))]);
    const bias = of("bias").map((beta, o) => beta - of("running_mean")[o] * scale[o]);
    return {weight, bias, inputs, outputs, kernel, stride};
  }

  /** Channels {data, side} through a fused convolution; zeros lie around the image. */
  function convolve({data, side}, {weight, bias, inputs, outputs, kernel, stride}) {
    const pad = kernel >> 1, wide = side + 2 * pad, half = side / stride;
    const padded = new Float32Array(inputs * wide * wide);
    for (let row = 0; row < inputs * side; row++) {
      const channel = Math.floor(row / side);
      const start = (channel * wide + (row % side) + pad) * wide + pad;
      padded.set(data.subarray(row * side, (row + 1) * side), start);
    }
    const out = new Float32Array(outputs * half * half);
    for (let o = 0, w = 0; o < outputs; o++) {
      const plane = out.subarray(o * half * half, (o + 1) * half * half).fill(bias[o]);
      for (let c = 0; c < inputs; c++)
        for (let dy = 0; dy < kernel; dy++)
          for (let dx = 0; dx < kernel; dx++) {
            const factor = weight[w++];
            for (let y = 0, i = 0; y < half; y++) {
              let from = (c * wide + y * stride + dy) * wide + dx;
              for (const end = i + half; i < end; i++, from += stride) plane[i] += factor * padded[from];
            }
          }
    }
    return {data: out, side: half};
  }

  const positive = h => ({...h, data: h.data.map(value => (value > 0 ? value : 0))});

  class Network {
    /** about: the page's data, as tools/alive.py writes them. */
    constructor(about) {
      const numbers = halves(about.weights), values = {};
      let start = 0;
      for (const [name, shape] of about.layout) {
        const size = shape.reduce((a, b) => a * b, 1);
        values[name] = {shape, data: numbers.subarray(start, start += size)};
      }
      this.stem = fused(values, "stem.0", "stem.1", 1);
      this.blocks = [];
      for (let l = 0; `blocks.${l}.residual.0.weight` in values; l++) {
        const shorter = `blocks.${l}.shortcut.0` in values || `blocks.${l}.shortcut.0.weight` in values;
        const stride = shorter ? 2 : 1, f = `blocks.${l}.residual`, s = `blocks.${l}.shortcut`;
        this.blocks.push({
          first: fused(values, `${f}.0`, `${f}.1`, stride),
          second: fused(values, `${f}.3`, `${f}.4`, 1),
          shortcut: shorter && fused(values, `${s}.0`, `${s}.1`, stride),
        });
      }
      this.classifier = {weight: values["classifier.weight"].data, bias: values["classifier.bias"].data};
      Object.assign(this, {mean: about.mean, std: about.std, side: about.size, branches: 0});
    }

    /** Grey levels 0 to 255 through normalisation and stem; the network's three channels are the same. */
    begin(pixels) {
      const plane = Float32Array.from(pixels, value => (value / 255 - this.mean) / this.std);
      const data = new Float32Array(3 * plane.length);
      for (let c = 0; c < 3; c++) data.set(plane, c * plane.length);
      return positive(convolve({data, side: this.side}, this.stem));
    }

    /** Block l with a gate: ReLU(gate · f(h) + shortcut(h)); gate 0 skips f. */
    through(l, h, gate) {
      const {first, second, shortcut} = this.blocks[l], past = shortcut ? convolve(h, shortcut) : h;
      if (!gate) return positive(past);
      this.branches++;
      const f = convolve(positive(convolve(h, first)), second);
      return positive({data: f.data.map((value, i) => gate * value + past.data[i]), side: f.side});
    }

    /** Average pooling and the linear layer. */
    end({data, side}) {
      const {weight, bias} = this.classifier, channels = weight.length / bias.length;
      const pooled = Array.from({length: channels},
        (_, c) => data.subarray(c * side * side, (c + 1) * side * side).reduce((a, b) => a + b, 0) / side ** 2);
      return Array.from(bias, (b, o) => pooled.reduce((sum, value, c) => sum + weight[o * channels + c] * value, b));
    }

    logits(pixels, gates) {
      return this.end(gates.reduce((h, gate, l) => this.through(l, h, gate), this.begin(pixels)));
    }

    /** The logits of all students one after the other; the last block's gate changes fastest (chapter 3b). */
    *students(pixels) {
      const walk = function* (net, h, l) {
        if (l === net.blocks.length) yield net.end(h);
        else for (const gate of [0, 1]) yield* walk(net, net.through(l, h, gate), l + 1);
      };
      yield* walk(this, this.begin(pixels), 0);
    }
  }

  // ------------------------------------------------------------------------------------------- the picture

  /** A stream of numbers in [0, 1) that is the same on every machine (mulberry32). */
  function* random(seed) {
    for (;;) {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      yield ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    }
  }

  /** A face with Gaussian blur (sigma in pixels) and then noise (sigma in grey levels), as whole grey levels. */
  function spoiled(face, side, blur, noise) {
    let values = Float64Array.from(face);
    if (blur) {
      const reach = Math.ceil(3 * blur);
      const kernel = Array.from({length: 2 * reach + 1}, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * blur ** 2)));
      const total = kernel.reduce((a, b) => a + b), inside = i => Math.min(side - 1, Math.max(0, i));
      for (const at of [(y, x, d) => y * side + inside(x + d), (y, x, d) => inside(y + d) * side + x])
        values = values.map((_, i) => kernel.reduce(
          (sum, k, j) => sum + k * values[at(Math.floor(i / side), i % side, j - reach)], 0) / total);
    }
    const dice = random(1), next = () => dice.next().value;
    const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
    return Uint8Array.from(values, value => Math.min(255, Math.max(0, Math.round(value + noise * normal()))));
  }

  function softmax(logits) {
    const top = Math.max(...logits), powers = logits.map(z => Math.exp(z - top));
    const total = powers.reduce((a, b) => a + b);
    return powers.map(value => value / total);
  }

  /** The mean of rows, with weights that sum to one. */
  const averaged = (rows, weights) => rows[0].map((_, c) => rows.reduce((sum, row, m) => sum + weights[m] * row[c], 0));

  return {Network, bytes, spoiled, softmax, averaged};
})();
