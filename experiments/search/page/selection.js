// Photos that are looked at closely, or chosen for a list.

import { exported } from "./api.js";
import { unselectAll } from "./results.js";

const element = (id) => document.getElementById(id);
const selected = new Map(); // photos by id

export const isSelected = (photo) => selected.has(photo.id);

export function select(photo) {
  if (!selected.delete(photo.id)) selected.set(photo.id, photo);
  element("selection").hidden = !selected.size;
  element("selected-count").textContent = `${selected.size} selected`;
  return selected.has(photo.id);
}

export function listenForExport(say) {
  element("selection").addEventListener("click", async (event) => {
    const format = event.target.dataset?.export;
    if (format === "none") {
      selected.clear();
      unselectAll();
      element("selection").hidden = true;
    } else if (format) {
      try {
        save(await exported([...selected.values()], format), format === "json" ? "photos.json" : "photos.txt");
      } catch (error) {
        say(error.message);
      }
    }
  });
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// `use` is called with the photo if it is searched from.
export function view(photo, use) {
  const viewer = element("viewer");
  const image = viewer.querySelector("img");
  const about = viewer.querySelector("p");
  const taken = photo.taken ? `, ${photo.taken.slice(0, 10)}` : "";
  about.textContent = `${photo.path} (${photo.width} × ${photo.height}${taken})`;
  image.onerror = () => { about.textContent = `${photo.path} can't be shown: it has gone, or has changed, since it was indexed.`; };
  image.src = photo.image;
  image.alt = photo.path;
  const [from, close] = viewer.querySelectorAll("button");
  from.onclick = () => {
    viewer.close();
    use(photo);
  };
  close.onclick = () => viewer.close();
  viewer.showModal();
}
