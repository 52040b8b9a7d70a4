// The search page: rounds of a search, each a few photos and words, and what was found for them.

import * as api from "./api.js";
import { asReference, listenForFiles, whyNot } from "./files.js";
import { addressOf, nameOf, placeMap, showReading, showReferences } from "./reference.js";
import { cutBelow, focusCard, showResults } from "./results.js";
import { isSelected, listenForExport, select, view } from "./selection.js";

const PAGE = 24; // results that are asked for at first, and with "Show more"
const element = (id) => document.getElementById(id);
const text = element("text");

let about = null;
let rounds = []; // each { references, text, balance, without, filters, answer, count, seed }
let current = -1;
let pending = null; // the round that is asked for
let running = null; // AbortController of its request
let cutOff = null; // a score; null for none
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// ---- state ----

const noFilters = () => ({ folder: "", since: "", until: "", formats: [], fold: true });
const start = () => ({ references: [], text: "", balance: 50, without: [], filters: noFilters(), seed: 0, count: PAGE });
const isStart = (round) => !round.references.length && !round.text.trim();

// What the form says now, beside what has no field: words may be typed while a photo is on its way.
function draft(changes = {}) {
  const before = pending || rounds[current] || start();
  return {
    ...before, text: text.value, balance: Number(element("balance").value), filters: readFilters(),
    count: PAGE, answer: null, ...changes,
  };
}

function sameReferences(one, other) {
  const key = (round) => round.references.map((reference) => reference.file ? reference.url : reference.photo.id).join();
  return key(one) === key(other);
}

// Words complete a round that had none; a slider or a filter changes it; everything else begins a new one.
function isNewRound(before, next) {
  if (!before || isStart(before)) return true;
  if (!sameReferences(before, next) || before.without.length !== next.without.length) return true;
  return before.text.trim() !== next.text.trim() && before.text.trim() !== "";
}

async function ask(next, focus = false) {
  running?.abort();
  const control = (running = new AbortController());
  pending = next;
  writeForm(next); // now, and not with the answer: somebody may go on typing meanwhile
  busy(true);
  say("");
  try {
    next.answer = isStart(next)
      ? { results: await api.sample(next.count, next.seed, next.filters), phrases: [], text: "" }
      : await api.search(next, next.count, control.signal);
    if (control !== running) return;
    keep(next);
    show(focus);
  } catch (error) {
    if (control !== running || error.name === "AbortError") return;
    say(error.message);
    pending = null;
    if (rounds[current]) showReferences(rounds[current].references, removeReference);
    else element("status").textContent = "";
  } finally {
    if (control === running) busy(false);
  }
}

function keep(next) {
  if (isNewRound(rounds[current], next) && current >= 0) {
    rounds = [...rounds.slice(0, current + 1), next];
    current += 1;
    history.pushState({ round: current }, "");
  } else {
    current = Math.max(current, 0);
    rounds[current] = next;
    history.replaceState({ round: current }, "");
  }
}

// ---- showing a round ----

function show(focus = false) {
  const round = rounds[current];
  showReferences(round.references, removeReference, about.crops);
  showReading(round.answer);
  showRounds();
  showUnwanted(round);
  showResults(round.answer.results, { use, refuse, view: (photo) => view(photo, use), select, isSelected }, focus);
  showCut(round);
  const full = round.answer.results.length === round.count && round.count < about.limits.k;
  element("more").hidden = isStart(round) || !full;
  element("shuffle").hidden = !isStart(round) || about.count <= PAGE;
}

function showRounds() {
  element("rounds").hidden = rounds.length < 2;
  const items = rounds.map((round, number) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const words = isStart(round) ? "Start" : round.text.trim() || "like this";
    const names = round.references.map(nameOf).join(", ");
    button.setAttribute("aria-label", `Step ${number}: ${words}${names ? `, from ${names}` : ""}`);
    if (number === current) button.setAttribute("aria-current", "step");
    for (const reference of round.references.slice(0, 2)) {
      const image = document.createElement("img");
      image.src = addressOf(reference, true);
      image.alt = "";
      button.append(image);
    }
    const label = document.createElement("span");
    label.textContent = words;
    button.append(label);
    if (round.without.length) {
      const less = document.createElement("small");
      less.textContent = `−${round.without.length}`;
      button.append(less);
    }
    button.addEventListener("click", () => number !== current && history.go(number - current));
    item.append(button);
    return item;
  });
  element("rounds").firstElementChild.replaceChildren(...items);
  items[current]?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function showUnwanted(round) {
  element("unwanted").hidden = !round.without.length;
  const items = round.without.map((photo) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Allow ${photo.path} again`);
    button.title = `${photo.path}: allow it again`;
    const image = document.createElement("img");
    image.src = photo.thumbnail;
    image.alt = "";
    button.append(image, "✕");
    button.addEventListener("click", () => ask(draft({ without: round.without.filter((other) => other !== photo) })));
    item.append(button);
    return item;
  });
  element("unwanted").querySelector("ul").replaceChildren(...items);
}

function showCut(round) {
  const scores = round.answer.results.map((result) => result.score).filter((score) => score !== undefined);
  const slider = element("cut-off");
  element("cut").hidden = scores.length < 2;
  if (scores.length > 1) {
    slider.min = Math.floor(Math.min(...scores) * 100) / 100;
    slider.max = Math.ceil(Math.max(...scores) * 100) / 100;
    slider.value = cutOff ?? slider.min;
  }
  count();
}

// Says how many results there are, or why there are none.
function count() {
  const round = rounds[current];
  const results = round.answer.results;
  const cut = element("cut").hidden ? -Infinity : (cutOff ?? -Infinity);
  const left = cutBelow(cut);
  element("cut-value").textContent = cut === -Infinity ? "none" : cut.toFixed(2);
  const plural = (number) => `${number} photo${number === 1 ? "" : "s"}`;
  let status = left < results.length ? `${left} of ${plural(results.length)}` : plural(left);
  if (isStart(round)) status = results.length ? "Click a photo to begin, or drop one of yours" : "";
  element("status").textContent = status;
  const reasons = {
    index: "The index holds no photos yet.",
    filters: "No photo fits the filters.",
    nothing: "Nothing was found.",
    cut: `All ${plural(results.length)} score below ${cut === -Infinity ? "" : cut.toFixed(2)}.`,
  };
  const filtered = JSON.stringify({ ...round.filters, fold: true }) !== JSON.stringify(noFilters());
  const why = left ? "" : results.length ? "cut" : !about.count ? "index" : filtered ? "filters" : "nothing";
  element("empty").hidden = !why;
  element("empty").firstElementChild.textContent = reasons[why] || "";
  const help = element("empty").querySelector("button");
  help.hidden = !["cut", "filters"].includes(why);
  help.textContent = why === "cut" ? "Show all" : "Clear the filters";
  help.onclick = why === "cut" ? () => { cutOff = null; showCut(round); } : clearFilters;
}

function busy(is) {
  document.body.classList.toggle("busy", is);
  element("results").setAttribute("aria-busy", String(is));
  if (!is) running = pending = null;
}

function say(problem) {
  element("message").hidden = !problem;
  element("message").firstElementChild.textContent = problem;
}

// ---- what one can do with a photo ----

function use(photo) {
  ask(draft({ references: [{ photo }], text: "", without: [] }));
  if (matchMedia("(hover: hover)").matches) text.focus({ preventScroll: true }); // elsewhere a keyboard would cover the photos
  scrollTo({ top: 0, behavior: still() ? "auto" : "smooth" });
}

function refuse(photo) {
  const { text, without } = pending || rounds[current];
  if (without.some((other) => other.id === photo.id)) return;
  ask(draft({ text, without: [...without, photo] }), document.activeElement !== document.body);
}

function removeReference(number) {
  const round = pending || rounds[current];
  const references = round.references.filter((_, place) => place !== number);
  ask(draft({ references, without: references.length ? round.without : [] }));
}

function addFiles(files) {
  const problem = whyNot(files, about.limits);
  if (problem) return say(problem);
  const references = files.map(asReference);
  showReferences(references, removeReference);
  ask(draft({ references, without: [] }));
  text.focus({ preventScroll: true });
}

// ---- the form ----

function readFilters() {
  const formats = [...element("formats").querySelectorAll("input:checked")].map((box) => box.value);
  const fields = { folder: element("folder").value, since: element("since").value, until: element("until").value };
  return { ...fields, formats, fold: element("fold").checked };
}

function writeForm({ text: words, balance, filters }) {
  text.value = words;
  element("balance").value = balance;
  describeBalance();
  for (const name of ["folder", "since", "until"]) element(name).value = filters[name];
  for (const box of element("formats").querySelectorAll("input")) box.checked = filters.formats.includes(box.value);
  element("fold").checked = filters.fold;
  const count = ["folder", "since", "until"].filter((name) => filters[name]).length + (filters.formats.length ? 1 : 0);
  element("filters-set").textContent = count ? ` (${count})` : "";
}

function clearFilters() {
  ask(draft({ filters: noFilters() }));
}

function describeBalance() {
  const value = Number(element("balance").value);
  const words = value === 50 ? "photo and words alike" : value < 50 ? `photo more, ${100 - value} %` : `words more, ${value} %`;
  element("balance").setAttribute("aria-valuetext", words);
}

let waiting = 0;
element("balance").addEventListener("input", () => {
  describeBalance();
  clearTimeout(waiting);
  if (rounds[current] && !isStart(rounds[current])) waiting = setTimeout(() => ask(draft({ text: rounds[current].text })), 250);
});
element("cut-off").addEventListener("input", (event) => {
  cutOff = Number(event.target.value) <= Number(event.target.min) ? null : Number(event.target.value);
  count();
});
element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const next = draft();
  if (isStart(next) && isStart(rounds[current] || next)) text.focus();
  else ask(next);
});
element("filters").addEventListener("change", () => ask(draft()));
element("clear-filters").addEventListener("click", clearFilters);
element("more").addEventListener("click", () => {
  const round = rounds[current];
  const before = round.answer.results.length;
  ask({ ...round, count: Math.min(round.count + PAGE, about.limits.k) })
    .then(() => focusCard(element("results").querySelectorAll(".card:not(.copy)")[before]));
});
element("shuffle").addEventListener("click", () => ask(draft({ seed: rounds[current].seed + 1 })));
element("message").querySelector("button").addEventListener("click", () => say(""));
listenForExport(say);

// ---- keys and steps back ----

document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range";
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    text.focus();
    text.select();
  } else if (event.key === "ArrowDown" && event.target === text) {
    event.preventDefault();
    focusCard(element("results").querySelector(".card:not([hidden])"));
  } else if (event.key === "Escape" && !element("viewer").open) {
    event.preventDefault(); // a search field would be emptied
    if (!element("message").hidden) say("");
    else if (typing && text.value !== (rounds[current]?.text ?? "")) text.value = rounds[current].text;
    else if (current > 0) history.back();
  }
});
addEventListener("popstate", (event) => {
  const number = event.state?.round;
  if (number === undefined || !rounds[number]) return;
  running?.abort();
  busy(false);
  say("");
  current = number;
  writeForm(rounds[current]);
  show(document.activeElement?.classList.contains("pick"));
});
addEventListener("resize", placeMap);

// ---- the beginning ----

function writeAbout() {
  const model = about.model.split("/").filter(Boolean).slice(-2).join("/"); // of a path, its end
  element("about").textContent = `${about.count.toLocaleString("en")} photos · ${model}`;
  element("about").title = about.model;
  for (const { folder, count } of about.folders) element("folder").append(new Option(`${folder} (${count})`, folder));
  for (const [format, count] of Object.entries(about.formats)) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = format;
    label.append(box, ` ${format} (${count})`);
    element("formats").append(label);
  }
  const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
  if (about.dated) {
    for (const name of ["since", "until"]) [element(name).min, element(name).max] = [day(about.first), day(about.last)];
  }
  // a filter that would change nothing is not shown
  element("folder").parentElement.hidden = !about.folders.length;
  element("formats").hidden = Object.keys(about.formats).length < 2;
  for (const name of ["since", "until"]) element(name).parentElement.hidden = !about.dated;
  text.maxLength = about.limits.text;
  listenForFiles(element("file"), element("dropping"), addFiles);
}

async function begin() {
  busy(true);
  try {
    about = await api.about();
    writeAbout();
    await ask(start());
  } catch (error) {
    say(error.message);
    element("status").textContent = "";
    busy(false);
  }
}

begin();
