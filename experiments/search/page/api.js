// What the page asks of the server. Every failure is an Error whose message can be shown.

async function answered(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  let problem = `The server answers with error ${response.status}.`;
  try {
    problem = (await response.json()).error || problem;
  } catch {
    // no JSON: the sentence above
  }
  throw new Error(problem.charAt(0).toUpperCase() + problem.slice(1));
}

export async function about() {
  return (await answered(fetch("/api/about"))).json();
}

export async function sample(count, seed, filters) {
  const asked = new URLSearchParams({ count, seed });
  for (const [name, value] of filterFields(filters)) asked.append(name, value);
  return (await answered(fetch(`/api/sample?${asked}`))).json();
}

// Photos of the index go by their ids: in a form, a browser would change line feeds within names of files.
export async function search(round, count, signal) {
  const form = new FormData();
  for (const reference of round.references) {
    if (reference.file) form.append("images", reference.file, reference.name);
    else form.append("references", reference.photo.id);
  }
  for (const photo of round.without) {
    for (const one of [photo, ...(photo.copies ?? [])]) form.append("without", one.id);
  }
  form.append("text", round.text);
  form.append("k", count);
  form.append("balance", round.balance / 100);
  form.append("maps", "true");
  form.append("fold", round.filters.fold);
  for (const [name, value] of filterFields(round.filters)) form.append(name, value);
  return (await answered(fetch("/api/search", { method: "POST", body: form, signal }))).json();
}

export async function exported(photos, format) {
  const form = new FormData();
  for (const photo of photos) form.append("paths", photo.id);
  form.append("format", format);
  return (await answered(fetch("/api/export", { method: "POST", body: form }))).blob();
}

function filterFields(filters) {
  const fields = ["folder", "since", "until"].filter((name) => filters[name]).map((name) => [name, filters[name]]);
  return [...fields, ...filters.formats.map((format) => ["formats", format])];
}
