// Photos from outside: chosen, pasted, or dropped anywhere on the page.

const PHOTO = /\.(jpe?g|png|webp|gif|bmp|tiff?|heic|heif|hif)$/i;
let pasted = 0;

// Why files can't be searched from, in a sentence; "" if they can.
export function whyNot(files, limits) {
  const other = files.find((file) => !file.type.startsWith("image/") && !PHOTO.test(file.name));
  if (other) return `${other.name} is no photo. Photos are JPEG, PNG, WEBP, GIF, BMP, TIFF or HEIC files.`;
  const large = files.find((file) => file.size > limits.image_bytes);
  if (large) return `${large.name} is too large: at most ${Math.floor(limits.image_bytes / 1e6)} MB.`;
  return files.length > limits.images ? `At most ${limits.images} photos at once.` : "";
}

export function asReference(file) {
  return { file, name: file.name || `pasted-${(pasted += 1)}`, url: URL.createObjectURL(file) };
}

// `take` is called with a list of files.
export function listenForFiles(input, curtain, take) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    if (files.length) take(files);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // dragenter and dragleave are told of every element on the way
  const cross = (step) => (event) => {
    if (!holdsFiles(event)) return;
    inside = Math.max(0, inside + step);
    curtain.hidden = !inside;
  };
  document.addEventListener("dragenter", cross(1));
  document.addEventListener("dragleave", cross(-1));
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    inside = 0;
    curtain.hidden = true;
    take([...event.dataTransfer.files]);
  });
}
