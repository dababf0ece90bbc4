
"use strict";
// Sorts and filters tables. The page is whole without it.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const value = (row, idx) => {
    const cell = row.cells[idx];
    const text = cell.dataset.v ?? cell.textContent;
    return cell.classList.contains("n") ? (text === "" ? -Infinity : Number(text)) : text;
  };
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, idx) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((it) => it.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => (typeof a === "number" ? a - b || 0 : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...body.rows].sort((a, b) => order(value(a, idx), value(b, idx)) * (up ? 1 : -1));
      body.append(...rows);
    });
  });
  if (body.rows.length > 12) {
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "filter";
    input.setAttribute("aria-label", "Filter: " + table.caption.textContent);
    input.addEventListener("input", () => {
      const text = input.value.toLowerCase();
      for (const row of body.rows) {
        const all = row.textContent + [...row.cells].map((it) => it.title).join(" ");
        row.hidden = !all.toLowerCase().includes(text);
      }
    });
    table.parentElement.before(input);
  }
}
