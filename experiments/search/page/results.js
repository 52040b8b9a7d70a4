// The found photos: cards in a grid, with keys.

const grid = document.getElementById("results");

function fileName(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}

function button(className, text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", act);
  return made;
}

// `actions`: use, refuse, view, select (each of a photo), isSelected.
export function showResults(results, actions, focusFirst) {
  grid.replaceChildren(...results.map((result) => card(result, actions, "")));
  rove(grid.querySelector(".pick"));
  if (focusFirst) focusCard(grid.querySelector(".card"));
}

function card(result, actions, kind) {
  const item = document.createElement("li");
  item.className = `card ${kind}`;
  item.dataset.score = result.score ?? "";
  const name = fileName(result.path);
  const scored = result.score === undefined ? "" : `, score ${result.score.toFixed(2)}`;

  const pick = document.createElement("button");
  pick.type = "button";
  pick.className = "pick";
  pick.tabIndex = -1;
  pick.setAttribute("aria-label", `${result.path}${scored}: search from this photo`);
  pick.title = result.taken ? `${result.path}\n${result.taken.replace("T", " ")}` : result.path;
  const image = document.createElement("img");
  image.src = result.thumbnail;
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  image.width = result.width;
  image.height = result.height;
  image.addEventListener("error", () => pick.classList.add("broken"));
  pick.append(image);
  pick.addEventListener("click", () => actions.use(result));
  item.append(pick);

  const tools = document.createElement("div");
  tools.className = "tools";
  const select = button("tool select", "✓", `Select ${result.path}`, () => {
    select.setAttribute("aria-pressed", String(actions.select(result)));
  });
  select.setAttribute("aria-pressed", String(actions.isSelected(result)));
  tools.append(select, button("tool view", "⤢", `View ${result.path} large`, () => actions.view(result)));
  if (result.score !== undefined) {
    tools.append(button("tool refuse", "✕", `Not this: ${result.path}`, () => actions.refuse(result)));
  }
  item.append(tools);

  const caption = document.createElement("p");
  caption.className = "caption";
  const label = document.createElement("span");
  label.className = "file-name";
  label.textContent = name;
  caption.append(label);
  if (result.score !== undefined) {
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = result.score.toFixed(2);
    caption.append(score);
  }
  item.append(caption);

  if (result.copies && result.copies.length) {
    const count = result.copies.length;
    const badge = button("badge", `+${count}`, `Show ${count} near-duplicate${count > 1 ? "s" : ""}`, () => {
      const opened = badge.getAttribute("aria-expanded") === "true";
      if (opened) {
        while (item.nextElementSibling?.classList.contains("copy")) item.nextElementSibling.remove();
      } else {
        const copies = result.copies.map((photo) => card({ ...photo, score: result.score }, actions, "copy"));
        item.after(...copies);
      }
      badge.setAttribute("aria-expanded", String(!opened));
    });
    badge.setAttribute("aria-expanded", "false");
    item.append(badge);
  }
  return item;
}

// Hides results below a score; returns how many are left.
export function cutBelow(score) {
  let left = 0;
  for (const item of grid.children) {
    const given = item.dataset.score;
    item.hidden = given !== "" && Number(given) < score;
    if (!item.hidden && !item.classList.contains("copy")) left += 1;
  }
  const current = grid.querySelector('.pick[tabindex="0"]');
  if (!current || current.parentElement.hidden) rove(grid.querySelector(".card:not([hidden]) .pick"));
  return left;
}

export function unselectAll() {
  for (const pressed of grid.querySelectorAll(".select")) pressed.setAttribute("aria-pressed", "false");
}

export function focusCard(item) {
  const pick = item?.querySelector(".pick");
  if (pick) {
    rove(pick);
    pick.focus();
  }
}

// Only one card is reached with Tab; arrows lead to the others.
function rove(pick) {
  if (!pick) return;
  for (const other of grid.querySelectorAll('.pick[tabindex="0"]')) other.tabIndex = -1;
  pick.tabIndex = 0;
}

function cards() {
  return [...grid.querySelectorAll(".card:not([hidden])")];
}

function columns(all) {
  const top = all[0]?.offsetTop;
  const next = all.findIndex((item) => item.offsetTop !== top);
  return next < 0 ? all.length : next;
}

const STEPS = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: (all) => -columns(all) };

grid.addEventListener("focusin", (event) => event.target.classList.contains("pick") && rove(event.target));
grid.addEventListener("keydown", (event) => {
  const item = event.target.closest(".card");
  if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = cards();
  if (event.key in STEPS) {
    const place = all.indexOf(item) + STEPS[event.key](all);
    if (place >= 0 && place < all.length) focusCard(all[place]);
  } else if (event.key === "Home") focusCard(all[0]);
  else if (event.key === "End") focusCard(all[all.length - 1]);
  else {
    const tool = { x: ".refuse", s: ".select", v: ".view", o: ".badge" }[event.key.toLowerCase()];
    const found = tool && item.querySelector(tool);
    if (!found) return;
    found.click();
  }
  event.preventDefault();
});
