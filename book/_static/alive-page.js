// The controls of the page "A network alive", whose network is alive.js.
"use strict";

addEventListener("DOMContentLoaded", () => {
  const root = document.querySelector("figure.alive");
  if (!root) return;
  const about = JSON.parse(root.querySelector("script").textContent);
  const net = new Alive.Network(about), L = net.blocks.length, count = 2 ** L, side = about.size;
  const find = (selector, of = root) => of.querySelector(selector), all = selector => [...root.querySelectorAll(selector)];
  const faces = about.faces.map(Alive.bytes), switches = all(".gates input");
  const [noise, blur] = ["noise", "blur"].map(name => find(`input[name=${name}]`));
  const rows = all("tbody tr").map(row => [...row.querySelectorAll("td")]);
  const gatesOf = m => Array.from({length: L}, (_, l) => (m >> (L - 1 - l)) & 1); // student m, as chapter 3b counts
  const chance = m => gatesOf(m).reduce((product, gate, l) => product * (gate ? about.p[l] : 1 - about.p[l]), 1);
  const weights = Array.from({length: count}, (_, m) => chance(m));
  let face = 0, pixels, teacher, student, job = 0, waiting;

  const percent = value => `${Math.round(100 * value)} %`;
  const best = q => q.indexOf(Math.max(...q));
  const says = q => `${about.classes[best(q)]}, ${percent(Math.max(...q))}`;
  const gates = () => switches.map(box => Number(box.checked));
  const chosen = () => gates().reduce((m, gate) => 2 * m + gate, 0);
  const label = () => about.labels[face];

  function paint(canvas, values) {
    const context = canvas.getContext("2d"), image = context.createImageData(side, side);
    values.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  /** Bars and numbers of a column, or dashes while they are computed. */
  function fill(column, q) {
    rows.forEach((cells, c) => {
      const [bar, number] = cells[column].children;
      bar.style.width = q ? `${100 * q[c]}%` : "0";
      number.textContent = q ? percent(q[c]) : "…";
    });
  }

  const bars = all(".strip rect");
  const mark = () => bars.forEach((bar, m) => bar.classList.toggle("chosen", m === chosen()));

  /** What a screen reader is told, once nothing has moved for a moment. */
  function tell() {
    const kept = gates().flatMap((gate, l) => (gate ? [l + 1] : []));
    const who = kept.length === L ? "all blocks" : kept.length ? `block${kept.length > 1 ? "s" : ""} ${kept.join(", ")}` : "no block";
    const text = `Drawn as ${about.classes[label()]}. Student with ${who}: ${says(student)}. Teacher: ${says(teacher)}.`;
    clearTimeout(waiting);
    waiting = setTimeout(() => { find("[role=status]").textContent = text; }, 250);
  }

  function showStudent() {
    student = Alive.softmax(net.logits(pixels, gates()));
    fill(0, student);
    mark();
    tell();
  }

  /** All students, a slice of 15 milliseconds at a time, so that the page stays awake. */
  function showAll() {
    const mine = ++job, found = [], walk = net.students(pixels);
    delete root.dataset.done;
    fill(2);
    (function slice() {
      if (mine !== job) return;
      for (const end = performance.now() + 15; performance.now() < end;) {
        const {value, done} = walk.next();
        if (done) return finish(found);
        const height = 100 * Alive.softmax(value)[label()];
        bars[found.length].setAttribute("height", height);
        bars[found.length].setAttribute("y", 100 - height);
        found.push(value);
      }
      setTimeout(slice);
    })();
  }

  function finish(found) {
    const q = found.map(Alive.softmax), ofLogits = Alive.softmax(Alive.averaged(found, weights));
    const ofProbabilities = Alive.averaged(q, weights);
    const far = r => (r.reduce((sum, value, c) => sum + Math.abs(value - teacher[c]), 0) / 2).toFixed(2);
    fill(2, ofLogits);
    const agree = q.filter(row => best(row) === best(teacher)).length, own = q.map(row => row[label()]);
    find(".distance").textContent = `From the teacher, to the students' averaged logits: ${far(ofLogits)}; to their averaged `
      + `probabilities: ${far(ofProbabilities)} (total variation, 0 to 1). ${agree} of ${count} students say what the teacher says.`;
    find(".strip").setAttribute("aria-label", `The probability of ${about.classes[label()]} from each of ${count} students: `
      + `${percent(Math.min(...own))} to ${percent(Math.max(...own))}; the teacher's is ${percent(teacher[label()])}.`);
    root.dataset.done = "yes";
  }

  function showPicture() {
    pixels = Alive.spoiled(faces[face], side, Number(blur.value), Number(noise.value));
    noise.nextElementSibling.value = `${noise.value} grey levels`;
    blur.nextElementSibling.value = `${blur.value} pixels`;
    paint(find(".seen"), pixels);
    find(".of").textContent = `Probability of “${about.classes[label()]}”: a bar for each student, a line for the teacher`;
    find(".seen").setAttribute("aria-label", `The face that the network sees, drawn as ${about.classes[label()]}`);
    teacher = Alive.softmax(net.logits(pixels, about.p));
    fill(1, teacher);
    const y = 100 - 100 * teacher[label()];
    ["y1", "y2"].forEach(name => find(".strip line").setAttribute(name, y));
    showStudent();
    showAll();
  }

  function choose(m) {
    gatesOf(m).forEach((gate, l) => { switches[l].checked = gate; });
    showStudent();
  }

  all(".faces canvas").forEach((canvas, i) => paint(canvas, faces[i]));
  all(".faces input").forEach((input, i) => input.addEventListener("change", () => { face = i; showPicture(); }));
  [noise, blur].forEach(slider => slider.addEventListener("input", showPicture));
  switches.forEach(box => box.addEventListener("change", showStudent));
  find("[name=draw]").addEventListener("click", () => choose(about.p.reduce((m, p) => 2 * m + (Math.random() < p), 0)));
  find("[name=whole]").addEventListener("click", () => choose(count - 1));
  find(".strip").addEventListener("click", event => {
    const box = find(".strip").getBoundingClientRect();
    choose(Math.min(count - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * count))));
  });
  face = all(".faces input").findIndex(input => input.checked); // a browser may remember another one
  root.classList.add("awake");
  showPicture();
});
