// The photos that a search begins from, the words as the model reads them, and what each phrase attends to.

// Okabe and Ito's colours, told apart with all kinds of colour vision; black and yellow left out.
const COLOURS = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167], [213, 94, 0], [0, 114, 178]];
const MARKS = "①②③④⑤⑥⑦⑧⑨";

const element = (id) => document.getElementById(id);
let crops = true; // whether the model sees only the largest square in the middle of a photo
let shownMap = null; // number of the phrase whose map is pinned by a click

export function nameOf(reference) {
  return reference.file ? reference.name : reference.photo.path;
}

export function addressOf(reference, small = false) {
  return reference.file ? reference.url : small ? reference.photo.thumbnail : reference.photo.image;
}

export function showReferences(references, remove, modelCrops = crops) {
  crops = modelCrops;
  const [first, ...rest] = references;
  const image = element("reference-image");
  element("reference").classList.toggle("filled", Boolean(first));
  image.hidden = !first;
  element("reference-name").hidden = !first;
  hideMap();
  if (first) {
    if (image.getAttribute("src") !== addressOf(first)) image.src = addressOf(first);
    image.alt = `Reference: ${nameOf(first)}`;
    element("reference-name").textContent = nameOf(first);
  } else {
    image.removeAttribute("src");
    element("reference-name").textContent = "";
  }
  const others = [];
  for (const [number, reference] of references.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "other";
    button.title = `Remove ${nameOf(reference)}`;
    button.setAttribute("aria-label", `Remove the photo ${nameOf(reference)}`);
    if (rest.length) {
      const small = document.createElement("img");
      small.src = addressOf(reference, true);
      small.alt = "";
      button.append(small);
    } else {
      button.classList.add("only");
      button.append("✕");
    }
    button.addEventListener("click", () => remove(number));
    others.push(button);
  }
  element("others").replaceChildren(...others);
}

// A phrase can be hovered, focused or, on a phone, touched.
export function showReading(answer) {
  const reading = element("reading");
  const phrases = answer ? answer.phrases : [];
  hideMap();
  shownMap = null;
  reading.hidden = !phrases.length;
  const parts = [];
  let end = 0;
  const characters = Array.from(answer ? answer.text : ""); // the server counts characters, not UTF-16 units
  const slice = (from, to) => characters.slice(from, to).join("");
  const ordered = phrases.map((phrase, number) => ({ ...phrase, number })).sort((a, b) => a.start - b.start);
  for (const phrase of ordered) {
    if (phrase.start < end) continue; // within another phrase
    parts.push(document.createTextNode(slice(end, phrase.start)));
    parts.push(phraseElement(phrase, slice(phrase.start, phrase.end)));
    end = phrase.end;
  }
  parts.push(document.createTextNode(slice(end, characters.length)));
  reading.replaceChildren(...parts);
  const attends = phrases.some((phrase) => phrase.attention);
  if (attends || (phrases.length && !element("reference-image").hidden)) {
    const hint = document.createElement("span");
    hint.className = "hint";
    hint.textContent = attends
      ? "Point at a phrase, or touch it, to see where the model looks for it."
      : "This model has no attention, so it can't show where it looks.";
    reading.append(hint);
  }
}

function phraseElement(phrase, text) {
  const colour = COLOURS[phrase.number % COLOURS.length];
  const mark = document.createElement(phrase.attention ? "button" : "mark");
  mark.className = "phrase";
  mark.style.setProperty("--phrase", `rgb(${colour.join(" ")})`);
  mark.append(text);
  const number = document.createElement("sup");
  number.textContent = MARKS[phrase.number] || String(phrase.number + 1);
  number.setAttribute("aria-hidden", "true");
  mark.append(number);
  if (phrase.attention) {
    mark.type = "button";
    mark.setAttribute("aria-label", `${text}: show what the model attends to`);
    mark.setAttribute("aria-pressed", "false");
    const show = () => showMap(phrase.attention, colour);
    const hide = () => shownMap !== phrase.number && hideMap();
    mark.addEventListener("mouseenter", show);
    mark.addEventListener("focus", show);
    mark.addEventListener("mouseleave", hide);
    mark.addEventListener("blur", () => {
      shownMap = null;
      mark.setAttribute("aria-pressed", "false");
      hideMap();
    });
    mark.addEventListener("click", () => {
      shownMap = shownMap === phrase.number ? null : phrase.number;
      mark.setAttribute("aria-pressed", String(shownMap !== null));
      if (shownMap === null) hideMap();
      else show();
    });
  }
  return mark;
}

// One pixel a patch; the browser smooths it when it is stretched over the photo.
function showMap(attention, colour) {
  const canvas = element("overlay");
  const image = element("reference-image");
  if (image.hidden) return;
  const { rows, columns, values } = attention;
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const most = Math.max(...values);
  const least = Math.min(...values);
  values.forEach((value, place) => {
    const share = most > least ? (value - least) / (most - least) : 0;
    pixels.data.set([...colour, Math.round(230 * share ** 0.7)], 4 * place);
  });
  context.putImageData(pixels, 0, 0);
  canvas.hidden = false;
  element("reference").classList.add("mapped");
  placeMap();
}

// The patches lie where the model looks: on the middle square, or all over the photo.
export function placeMap() {
  const canvas = element("overlay");
  if (canvas.hidden) return;
  const image = element("reference-image");
  const box = image.getBoundingClientRect();
  const frame = element("reference").getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight) || 1;
  const side = Math.min(image.naturalWidth, image.naturalHeight);
  const [width, height] = [image.naturalWidth, image.naturalHeight].map((length) => (crops ? side : length) * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.style.left = `${box.left - frame.left + (box.width - width) / 2}px`;
  canvas.style.top = `${box.top - frame.top + (box.height - height) / 2}px`;
}

function hideMap() {
  element("overlay").hidden = true;
  element("reference").classList.remove("mapped");
}
