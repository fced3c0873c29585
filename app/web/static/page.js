// The start page. Everything it does goes through the public interface; see /docs.
const $ = (id) => document.getElementById(id);
const FINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
const SAID = { queued: "Waiting for a worker", running: "Being made", succeeded: "Done", failed: "Failed", canceled: "Cancelled", expired: "Files removed" };
let models = [];
let stream = null; // of the job that is shown
let shown = null; // its id
let viewer = null;

class Problem extends Error {}

async function call(path, options = {}) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) {
    const places = (body.errors ?? []).map((e) => `${e.pointer ?? e.parameter} ${e.detail}`);
    throw new Problem(places.length ? places.join("; ") : body.detail);
  }
  return body;
}

const post = (path, body) => call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body });

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const figure = (number) => Math.abs(number) >= 1e6 || (number !== 0 && Math.abs(number) < 1e-3) ? number.toExponential(2) : String(Number(number.toPrecision(4)));
const size = (bytes) => bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
const span = (s) => s < 1.5 ? "a second" : s < 90 ? `${Math.round(s)} seconds` : s < 5400 ? `${Math.round(s / 60)} minutes` : `${(s / 3600).toFixed(1)} hours`;

// ---------------------------------------------------------------------------------------------------------- the form

function spec() {
  const kind = $("latent").value;
  const number = (id) => Number($(id).value);
  const latent = {
    sampled: { kind, temperature: number("temperature") },
    learned: { kind, index: number("index") },
    nearby: { kind, index: number("index"), noise: number("noise") },
    interpolated: { kind, first: number("first"), second: number("second"), weight: number("weight") },
  }[kind];
  const formats = [...document.querySelectorAll("input[name=formats]:checked")].map((box) => box.value);
  return {
    model: $("model").value, count: number("count"), frames: number("frames"), grid: number("grid"),
    latent, rotation: $("rotation").value, formats,
  };
}

function body() {
  // A seed has up to 64 bits; a JavaScript number has 53. It goes into the text as it was typed.
  const seed = $("seed").value.trim().replace(/^0+(?=\d)/, "");
  const text = JSON.stringify(spec());
  return /^\d{1,20}$/.test(seed) ? `${text.slice(0, -1)},"seed":${seed}}` : text;
}

let pending = 0;
function changed() {
  const kind = $("latent").value;
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(kind);
  for (const id of ["temperature", "noise", "weight"]) $(`${id}-value`).textContent = Number($(id).value).toFixed(2);
  const card = models.find((m) => m.id === $("model").value);
  if (card) {
    $("model-note").textContent = `${card.cell_type}: ${card.latent_codes} learned cells over ${figure(card.minutes)} minutes. Grids from ${card.grid_min} keep the finest parts.`;
    for (const id of ["index", "first", "second"]) $(id).max = card.latent_codes - 1;
  }
  $("curl").textContent = `curl -s ${location.origin}/v1/generations \\\n  -H 'Content-Type: application/json' \\\n  -d '${body()}'`;
  clearTimeout(pending);
  pending = setTimeout(estimate, 250);
}

async function estimate() {
  try {
    const { cost, within_limits } = await post("/v1/estimates", body());
    $("estimate").textContent = within_limits
      ? `${cost.frames} frames, at most ${span(cost.seconds)} of computing, about ${size(cost.bytes)} of files.`
      : "More than this service allows in one job: lower grid, frames or cells.";
  } catch (problem) {
    $("estimate").textContent = problem instanceof Problem ? problem.message : "";
  }
}

async function send(event) {
  event.preventDefault();
  $("send").disabled = true;
  $("refusal").hidden = true;
  try {
    follow(await post("/v1/generations", body()));
    $("result").scrollIntoView({ block: "nearest" });
  } catch (problem) {
    $("refusal").textContent = problem instanceof Problem ? problem.message : "The service does not answer.";
    $("refusal").hidden = false;
  } finally {
    $("send").disabled = false;
  }
}

// --------------------------------------------------------------------------------------------------------- the result

function follow(job) {
  stream?.close();
  shown = job.id;
  viewer?.clear();
  for (const id of ["downloads", "playback", "canvas"]) $(id).hidden = true;
  $("stage-note").hidden = false;
  $("stage-note").textContent = "It appears here once it is made.";
  $("progress").hidden = false;
  tell(job.state, job.progress);
  if (FINAL.has(job.state)) return finished(job);
  stream = new EventSource(job.links.events);
  stream.addEventListener("progress", (event) => tell("running", JSON.parse(event.data)));
  stream.addEventListener("state", async (event) => {
    const { state } = JSON.parse(event.data);
    tell(state, { fraction: 0 });
    if (!FINAL.has(state)) return;
    stream.close();
    finished(await call(job.links.self));
  });
}

function tell(state, progress) {
  const part = state === "running" && progress.frames ? `: frame ${progress.frame} of ${progress.frames}` : "";
  const left = state === "running" && progress.eta_s ? `, ${span(progress.eta_s)} to go` : "";
  $("state").textContent = SAID[state] + part + left;
  $("bar").value = state === "succeeded" ? 1 : progress.fraction;
  $("cancel").hidden = FINAL.has(state);
}

async function finished(job) {
  recent();
  if (job.id !== shown) return;
  tell(job.state, job.progress);
  if (job.error) $("state").textContent = `Failed: ${job.error.message}`;
  if (job.state !== "succeeded") return;
  const { files } = await call(job.links.files);
  $("archive").href = job.links.archive;
  $("manifest").href = job.links.manifest;
  $("files-summary").textContent = `${files.length} files, ${size(files.reduce((sum, f) => sum + f.bytes, 0))}`;
  $("files").replaceChildren(...files.map((file) => {
    const item = element("li");
    item.append(element("a", file.name, { href: file.href, download: "" }), ` ${size(file.bytes)}`);
    return item;
  }));
  const pictures = files.filter((f) => f.name.endsWith("/preview.png"));
  $("previews").replaceChildren(...pictures.map((f, i) => element("img", undefined, { src: f.href, loading: "lazy", alt: `Frames of cell ${i}, from the first to the last` })));
  $("downloads").hidden = false;
  show(job, files.filter((f) => f.name.endsWith(".stl")));
}

async function show(job, files) {
  if (files.length === 0) {
    $("stage-note").textContent = "Ask for STL to turn it here.";
    return;
  }
  try {
    const { CellViewer } = await import("/static/viewer.js");
    viewer ??= new CellViewer($("canvas"));
  } catch {
    $("stage-note").textContent = "This browser cannot show it; the files are below.";
    return;
  }
  const cells = Map.groupBy ? Map.groupBy(files, (f) => f.name.split("/")[0]) : groups(files);
  $("cell").replaceChildren(...[...cells.keys()].map((name, i) => element("option", String(i), { value: name })));
  $("cell-choice").hidden = cells.size < 2;
  const play = async () => {
    const frames = cells.get($("cell").value);
    const times = job.spec.times;
    $("stage-note").textContent = "Loading…";
    await viewer.load(frames.map((f) => f.href), (loaded) => { $("stage-note").textContent = `Loading frame ${loaded} of ${frames.length}`; });
    if (job.id !== shown) return;
    $("stage-note").hidden = true;
    $("canvas").hidden = false;
    $("playback").hidden = false;
    $("scrub").max = frames.length - 1;
    viewer.onframe = (k) => {
      $("scrub").value = k;
      const t = times ? times[k] : frames.length > 1 ? -1 + (2 * k) / (frames.length - 1) : -1;
      $("moment").textContent = `${k + 1}/${frames.length} · t = ${t.toFixed(2)}`;
    };
    viewer.onplay = (on) => { $("play").textContent = on ? "Pause" : "Play"; $("play").setAttribute("aria-pressed", String(on)); };
    viewer.show(0);
    viewer.play(frames.length > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches);
  };
  $("cell").onchange = play;
  await play();
}

function groups(files) {
  const found = new Map();
  for (const file of files) {
    const name = file.name.split("/")[0];
    found.set(name, [...(found.get(name) ?? []), file]);
  }
  return found;
}

// --------------------------------------------------------------------------------------------------- models and jobs

function card(model) {
  const made = element("article", undefined, { class: "card" });
  const facts = element("dl");
  const fact = (name, value) => facts.append(element("dt", name), element("dd", value));
  fact("Cell type", model.cell_type);
  fact("Learned from", `${model.training.sequences} sequences of ${model.training.frames} frames`);
  fact("Scale", `${figure(model.micrometres)} µm a unit, ${figure(model.minutes)} min`);
  fact("Network", `${(model.parameters / 1000).toFixed(0)} k weights, code of ${model.latent_size}`);
  for (const [name, value] of Object.entries(model.quality)) fact(name.replaceAll("_", " "), figure(value));
  fact("Licence", model.licence);
  made.append(element("h3", model.title), element("p", model.description), facts);
  return made;
}

async function recent() {
  const { jobs } = await call("/v1/jobs?limit=8");
  const rows = jobs.map((job) => {
    const row = element("tr");
    const grid = [job.spec.grid].flat().join("×");
    for (const text of [new Date(job.created_at).toLocaleString(), job.model.id, job.spec.seed, (job.spec.frames ?? 1) * (job.spec.count ?? 1), grid, SAID[job.state]]) row.append(element("td", String(text)));
    const open = element("button", "Show", { type: "button", class: "quiet", "aria-label": `Show the job of ${job.created_at}` });
    open.onclick = () => { follow(job); $("result").scrollIntoView(); };
    const cell = element("td");
    cell.append(open);
    row.append(cell);
    return row;
  });
  if (rows.length === 0) {
    const row = element("tr");
    row.append(element("td", "None yet.", { colspan: "7" }));
    rows.push(row);
  }
  $("rows").replaceChildren(...rows);
}

async function start() {
  $("make").addEventListener("input", changed);
  $("make").addEventListener("submit", send);
  $("cancel").onclick = () => shown && post(`/v1/jobs/${shown}/cancel`);
  $("play").onclick = () => viewer?.play(!viewer.playing);
  $("scrub").oninput = () => { viewer?.play(false); viewer?.show(Number($("scrub").value)); };
  ({ models } = await call("/v1/models"));
  $("model").replaceChildren(...models.map((m) => element("option", m.title, { value: m.id })));
  $("cards").replaceChildren(...models.map(card));
  if (models.length === 0) {
    $("cards").replaceChildren(element("p", "No model is installed."));
    $("send").disabled = true;
  } else changed();
  recent();
  const { version } = await call("/v1/version");
  $("version").textContent = `cytosynth ${version}`;
}

start();
