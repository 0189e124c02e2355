// A formula in the text that is wider than its line, as on a phone, gets a line of its own, which scrolls.
addEventListener("load", () => window.MathJax?.startup?.promise.then(() => {
  const formulas = [...document.querySelectorAll("article mjx-container:not([display])")];
  const mark = () => {
    for (const formula of formulas) {
      const line = formula.closest("p, li, td, dd, h1, h2, h3");
      formula.classList.toggle("wide", line && formula.firstElementChild?.offsetWidth > line.clientWidth);
    }
  };
  mark();
  new ResizeObserver(mark).observe(document.querySelector("article"));
}));

// What scrolls sideways can be reached by the keyboard: tables, formulas, code.
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("article :is(table, pre, div.math)")];
  const mark = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  mark();
  if (boxes.length) new ResizeObserver(mark).observe(document.querySelector("article"));
});
