"use strict";

// Rows of a table that a filter lets through; of a large table only the first `data-most` of them are laid out.
const filters = new Map();
function showRows(table) {
  const fits = filters.get(table) ?? (() => true);
  const most = Number(table.dataset.most ?? Infinity);
  let count = 0;
  for (const row of Array.from(table.tBodies[0].rows)) {
    const fitting = fits(row);
    count += fitting;
    row.hidden = !fitting || count > most;
  }
  return count;
}

for (const button of document.querySelectorAll("button.all")) {
  button.addEventListener("click", () => {
    const table = button.parentElement.previousElementSibling.querySelector("table");
    delete table.dataset.most;
    showRows(table);
    button.parentElement.remove();
    table.parentElement.focus();
  });
}

// Sort a table by one column: numbers as numbers, text as a reader would; empty cells stay last either way.
function sortTable(header, ascending) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const index = header.cellIndex;
  const numeric = header.classList.contains("number");
  // The key of a cell is its text, without details and marks behind it, unless data-sort says otherwise.
  const key = (row) => {
    const cell = row.cells[index];
    const text = cell.dataset.sort ?? (cell.firstChild?.textContent ?? "").trim();
    if (text === "" || (text === "\u2013" && cell.dataset.sort === undefined)) {
      return undefined;
    }
    const number = Number(text.replaceAll(",", ""));
    return !numeric ? text : Number.isNaN(number) ? undefined : number;
  };
  const rows = Array.from(body.rows, (row) => ({ row, key: key(row) }));
  rows.sort((a, b) => {
    if (a.key === undefined || b.key === undefined) {
      return (a.key === undefined) - (b.key === undefined);
    }
    // Not a difference: infinity minus infinity is not a number.
    const order = numeric
      ? (a.key > b.key) - (a.key < b.key)
      : a.key.localeCompare(b.key, "en", { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...rows.map((entry) => entry.row));
  showRows(table);
  for (const other of table.tHead.rows[0].cells) {
    other.setAttribute("aria-sort", "none");
  }
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    sortTable(header, header.getAttribute("aria-sort") !== "ascending");
  });
}

// Filter the rows of a table by the words of its column "Flags": each flag any, with it, or without it.
function addFilter(header) {
  const table = header.closest("table");
  const flags = new Map(
    Array.from(table.tBodies[0].rows, (row) => [
      row,
      row.cells[header.cellIndex].textContent.trim().split(/\s+/),
    ]),
  );
  const names = new Set(Array.from(flags.values()).flat());
  const box = document.createElement("fieldset");
  box.className = "filter";
  box.append(Object.assign(document.createElement("legend"), { textContent: "Rows by flag" }));
  const count = document.createElement("output");
  const selects = [...names].filter((name) => name !== "\u2013").sort().map((name) => {
    const select = Object.assign(document.createElement("select"), { name });
    for (const [value, text] of [["", "any"], ["with", "with"], ["without", "without"]]) {
      select.append(new Option(text, value));
    }
    const label = document.createElement("label");
    label.append(`${name} `, select);
    box.append(label);
    return select;
  });
  filters.set(table, (row) =>
    selects.every((select) => select.value === "" || flags.get(row).includes(select.name) === (select.value === "with")),
  );
  box.addEventListener("change", () => {
    count.textContent = `${showRows(table)} of ${flags.size} rows`;
  });
  box.append(count);
  table.closest(".scroll").before(box);
}

for (const header of document.querySelectorAll("thead th")) {
  if (header.textContent.trim() === "Flags") {
    addFilter(header);
  }
}

// A link into a folded section opens it, as does the address of the page.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target === null) {
    return;
  }
  target.hidden = false;
  target.querySelector(":scope > details")?.setAttribute("open", "");
  for (let within = target.closest("details"); within; within = within.parentElement.closest("details")) {
    within.open = true;
  }
  target.scrollIntoView();
}
window.addEventListener("hashchange", openTarget);
openTarget();

// On paper nothing can be opened: open all for printing, and close again what was closed.
const opened = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
});
window.addEventListener("afterprint", () => {
  for (const details of opened.splice(0)) {
    details.open = false;
  }
});
