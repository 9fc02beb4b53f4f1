
"use strict";
// Sorting, filtering and hiding columns of tables that ask for it, and larger pictures. The page reads well without.

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const first = [...body.rows];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button", className: "sort" }, head.textContent.trim());
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const next = before === "descending" ? "ascending" : before === "ascending" ? null : "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const value = row => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : parseFloat(cell.dataset.value);
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x === "string") return sign * x.localeCompare(y, undefined, { numeric: true });
        // What was not measured comes last in either direction.
        return Number.isNaN(x) - Number.isNaN(y) || (sign * (x - y) || 0);
      };
      body.append(...(next ? [...first].sort(order) : first));
    });
  });
}

function tools(table) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].map(head => head.textContent.trim());
  const shown = element("span", { className: "note" });
  shown.setAttribute("role", "status");
  const filter = element("input", { type: "search", placeholder: "name or figure" });
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const said = row => row.textContent.toLowerCase();
    rows.forEach(row => { row.hidden = !words.every(word => said(row).includes(word)); });
    const left = rows.filter(row => !row.hidden).length;
    shown.textContent = left === rows.length ? "" : `${left} of ${rows.length} rows`;
  });
  const choices = heads.slice(1).map((label, i) => {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      for (const row of table.rows) row.cells[i + 1].hidden = !box.checked;
    });
    return element("label", {}, box, ` ${label}`);
  });
  const columns = element("details", { className: "columns" },
    element("summary", {}, "Columns"), element("div", {}, ...choices));
  table.parentElement.before(element("div", { className: "tools" },
    element("label", {}, "Filter ", filter), columns, shown));
}

function zoomable() {
  const large = element("img", { className: "picture" });
  const caption = element("p", {});
  const close = element("button", { type: "button" }, "Close");
  const dialog = element("dialog", { className: "zoom" }, large, caption, close);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  for (const picture of document.querySelectorAll("img[data-zoom]")) {
    const button = element("button", { type: "button", className: "enlarge", title: "Enlarge" });
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => {
      document.body.append(dialog);
      large.src = picture.src;
      large.alt = caption.textContent = picture.alt;
      dialog.showModal();
    });
  }
}

document.querySelectorAll("table[data-tools]").forEach(table => { tools(table); sortable(table); });
zoomable();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
