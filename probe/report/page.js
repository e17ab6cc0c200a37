"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const shown = document.getElementById("shown");
  const form = document.getElementById("filters");
  const text = document.getElementById("filter-text");
  const selects = Array.from(form.querySelectorAll("select"));
  const contents = rows.map((row) => Array.from(row.cells, (cell) => cell.textContent).join("\n").toLowerCase());

  function filter() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((row, i) => {
      const is = words.every((word) => contents[i].includes(word)) &&
        selects.every((select) => !select.value || row.cells[select.dataset.column].textContent === select.value);
      row.hidden = !is;
      n += is;
    });
    shown.textContent = `${n} of ${rows.length} results`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));

  function key(row, column) {
    const cell = row.cells[column];
    return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
  }
  function order(a, b) {
    if (typeof a === "number" && typeof b === "number") {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return a - b;
    }
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const column = Number(button.dataset.sort);
      const isNumber = rows.some((row) => "v" in row.cells[column].dataset);
      const was = head.getAttribute("aria-sort");
      const down = was ? was === "ascending" : isNumber;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const known = new Map(rows.map((row, i) => [row, [key(row, column), i]]));
      const missing = (value) => typeof value === "number" && Number.isNaN(value);
      const sorted = rows.slice().sort((a, b) => {
        const [x, i] = known.get(a), [y, j] = known.get(b);
        if (missing(x) || missing(y)) return missing(x) - missing(y) || i - j;
        return (down ? -1 : 1) * order(x, y) || i - j;
      });
      body.append(...sorted);
    });
  }

  const tip = document.getElementById("tip");
  function show(mark) {
    const title = mark.querySelector("title");
    if (!title) return;
    tip.textContent = title.textContent;
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const left = Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 6)}px`;
  }
  function hide() { tip.hidden = true; }
  for (const figure of document.querySelectorAll("figure[tabindex]")) {
    const marks = Array.from(figure.querySelectorAll(".mark"));
    let at = -1;
    function go(to) {
      if (at >= 0) marks[at].classList.remove("at");
      at = to;
      if (at < 0) return hide();
      marks[at].classList.add("at");
      show(marks[at]);
    }
    for (const mark of marks) {
      mark.addEventListener("pointerenter", () => show(mark));
      mark.addEventListener("pointerleave", hide);
    }
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step && marks.length) {
        event.preventDefault();
        go((at < 0 ? (step > 0 ? 0 : marks.length - 1) : at + step + marks.length) % marks.length);
      } else if (event.key === "Escape") go(-1);
    });
    figure.addEventListener("blur", () => go(-1));
  }
})();
