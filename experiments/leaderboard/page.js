"use strict";
// A click on a column's title sorts the bodies of its table, each a model with the rows of its parts.
for (const table of document.querySelectorAll("table")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    title.querySelector("button").addEventListener("click", () => {
      const falling = title.getAttribute("aria-sort") !== "descending";
      const numeric = title.classList.contains("number");
      const down = numeric ? falling : title.getAttribute("aria-sort") === "ascending";
      for (const other of titles) other.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (body) => body.rows[0].cells[column].dataset.key;
      const bodies = [...table.tBodies];
      bodies.sort((one, two) => {
        const [a, b] = [key(one), key(two)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);  // the unknown comes last
        const order = numeric ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      table.append(...bodies);
    });
  });
}
const sides = document.getElementById("sides");
const show = () => document.body.classList.toggle("no-sides", !sides.checked);
sides.addEventListener("change", show);
show();
