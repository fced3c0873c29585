// The start page. It uses the public API only; see /docs.
const $ = (id) => document.getElementById(id);
const FINAL = new Set(["succeeded", "failed", "canceled", "expired"]);
const SAID = { queued: "Waiting for a worker", running: "Running", succeeded: "Done", failed: "Failed", canceled: "Cancelled", expired: "Files removed" };
let models = [];
let stream = null; // events of the job that is shown
let shown = null; // its id
let turn = 0; // counts the jobs shown; work that was started for an earlier job compares it and stops
let viewer = null;

class Problem extends Error {
  constructor(message, errors = []) {
    super(message);
    this.errors = errors; // as in the problem document: pointer and detail
  }
}
class Away extends Problem {} // no answer, or an answer that says to try again

const AWAY = "The service does not answer.";

// An integer beyond 2^53 loses digits as a JavaScript number: it becomes a string of its digits.
const parse = (text) => JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
  /^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token));

async function call(path, options = {}) {
  let answer, body;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
    body = answer.status === 204 ? null : parse(await answer.text());
  } catch {
    throw new Away(AWAY);
  }
  if (answer.ok) return body;
  throw new ([429, 502, 503, 504].includes(answer.status) ? Away : Problem)(sentence(body?.detail ?? AWAY), body?.errors);
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?…]$/.test(text) ? "" : "."}`;
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

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

function spread({ low, high }) {
  const [from, to] = [span(low), span(high)];
  if (from === to) return "";
  const [number, unit] = from.split(" ");
  return ` (${to.endsWith(` ${unit}`) ? number : from} to ${to})`;
}

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
  // A seed has up to 64 bits, a JavaScript number 53. The digits of the seed go into the text unchanged.
  const seed = $("seed").value.trim().replace(/^0+(?=\d)/, "");
  const text = JSON.stringify(spec());
  return /^\d{1,20}$/.test(seed) ? `${text.slice(0, -1)},"seed":${seed}}` : text;
}

// ------------------------------------------------------------------------------------------------------------- its errors

const FIELDS = ["model", "frames", "grid", "count", "seed", "rotation", "latent", "index", "first", "second", "temperature", "noise", "weight"];
const SEED_MAX = 2n ** 64n - 1n;
const boxes = () => [...document.querySelectorAll("input[name=formats]")];
const inputs = (field) => field === "formats" ? boxes() : [$(field)];
const label = (field) => field === "formats" ? "Files" : document.querySelector(`label[for=${field}]`).firstChild.textContent.trim();

function fault(field, text) {
  // Show an error beside a field; without a text, remove it.
  const id = `${field}-fault`;
  if (!text) $(id)?.remove();
  else if ($(id)) $(id).textContent = text;
  else (field === "formats" ? document.querySelector("fieldset") : $(field)).after(element("p", text, { id, class: "fault" }));
  for (const input of inputs(field)) {
    for (const [name, value] of [["aria-invalid", "true"], ["aria-describedby", id]]) {
      if (text) input.setAttribute(name, value);
      else input.removeAttribute(name);
    }
  }
}

function check() {
  // Check what can be checked without the service. Returns the fields with errors, in order.
  const found = {};
  for (const field of FIELDS) {
    const input = $(field);
    if (input.disabled) continue;
    if (input.type === "number" && !input.validity.valid) found[field] = `${label(field)} must be a whole number from ${input.min} to ${input.max}.`;
  }
  const seed = $("seed").value.trim();
  if (seed && !(/^\d{1,40}$/.test(seed) && BigInt(seed) <= SEED_MAX)) found.seed = `Seed must be a whole number from 0 to ${SEED_MAX}, or empty.`;
  if (!boxes().some((box) => box.checked)) found.formats = "Choose at least one file format.";
  for (const field of [...FIELDS, "formats"]) fault(field, found[field]);
  return Object.keys(found);
}

function refused(problem) {
  // Show the errors of a refusal beside their fields. Returns these fields, and the texts of all other errors.
  const fields = [];
  const rest = [];
  for (const { pointer, parameter, detail } of problem.errors) {
    const members = (pointer ?? "").split("/").slice(1);
    const field = [...members].reverse().concat(members[0] === "times" ? "frames" : []).find((name) => name === "formats" || FIELDS.includes(name));
    const said = detail.startsWith(`${members.at(-1)} `) ? detail.slice(members.at(-1).length + 1) : detail;
    const about = (name) => sentence(/^(is|must|may) /.test(said) ? `${name} ${said}` : detail);
    if (field && !inputs(field)[0].disabled) {
      fault(field, about(label(field)));
      fields.push(field);
    } else rest.push(about(members.join(" ") || parameter || "The request"));
  }
  if (problem.errors.length === 0) rest.push(problem.message);
  return { fields, rest: rest.join(" ") };
}

function refusal(text) {
  $("refusal").textContent = text;
  $("refusal").hidden = !text;
  if (text) $("refusal").scrollIntoView({ block: "nearest" });
}

function turnTo(field) {
  const input = inputs(field)[0];
  input.focus({ preventScroll: true });
  input.parentElement.scrollIntoView({ block: "center" });
}

// -------------------------------------------------------------------------------------------------------------- its changes

let pending = 0;
let asked = 0; // estimates requested; only the answer to the latest one is shown

function changed() {
  arrange();
  keep();
  refusal("");
  clearTimeout(pending);
  pending = setTimeout(estimate, 250);
}

function arrange() {
  const kind = $("latent").value;
  for (const part of document.querySelectorAll("[data-for]")) {
    part.hidden = !part.dataset.for.split(" ").includes(kind);
    for (const input of part.querySelectorAll("input")) input.disabled = part.hidden; // hidden inputs are not validated
  }
  for (const id of ["temperature", "noise", "weight"]) $(`${id}-value`).textContent = Number($(id).value).toFixed(2);
  const card = models.find((m) => m.id === $("model").value);
  if (card) {
    $("model-note").textContent = `${card.cell_type}: ${card.latent_codes} learned cells over ${figure(card.minutes)} minutes. Use a grid of ${card.grid_min} or more to keep thin structures.`;
    if (arrange.of !== card.id) fit(card);
    arrange.of = card.id;
  }
  $("curl").textContent = `curl -s ${location.origin}/v1/generations \\\n  -H 'Content-Type: application/json' \\\n  -d '${body()}'`;
}

function fit(card) {
  // Models differ in their learned cells and grids: values that the model does not have change to the nearest it has.
  for (const id of ["index", "first", "second"]) {
    $(id).max = card.latent_codes - 1;
    if (Number($(id).value) > card.latent_codes - 1) $(id).value = card.latent_codes - 1;
  }
  const grids = [...$("grid").options];
  if (!grids.some((grid) => Number(grid.value) <= card.grid_max)) grids.unshift($("grid").insertBefore(new Option(`${card.grid_max}³`, card.grid_max), grids[0]));
  for (const grid of grids) grid.disabled = Number(grid.value) > card.grid_max;
  if ($("grid").selectedOptions[0]?.disabled) $("grid").value = grids.filter((grid) => !grid.disabled).at(-1).value;
}

function keep() {
  const entered = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  entered.formats = boxes().filter((box) => box.checked).map((box) => box.value);
  try {
    sessionStorage.setItem("form", JSON.stringify(entered));
  } catch { /* storage is off or full: the form is not kept */ }
}

function restore() {
  try {
    const entered = JSON.parse(sessionStorage.getItem("form") ?? "{}");
    for (const id of FIELDS) {
      if (typeof entered[id] !== "string") continue;
      const before = $(id).value;
      $(id).value = entered[id];
      if ($(id).value === "" && entered[id] !== "") $(id).value = before; // no longer offered
    }
    if (entered.formats) for (const box of boxes()) box.checked = entered.formats.includes(box.value);
  } catch { /* storage is off: the form starts as it is */ }
}

async function estimate() {
  const mine = ++asked;
  const said = (text) => { if (mine === asked) $("estimate").textContent = text; };
  if (check().length) return said("");
  try {
    const { cost, seconds, within_limits } = await post("/v1/estimates", body());
    said(within_limits
      ? `${cost.frames} frames, about ${span(seconds.expected)}${spread(seconds)} of computing time, about ${size(cost.bytes)} of files.`
      : "This is more than the service allows in one job: lower grid, frames or cells.");
  } catch (problem) {
    if (mine === asked) said(refused(problem).rest);
  }
}

async function send(event) {
  event.preventDefault();
  clearTimeout(pending);
  asked++;
  refusal("");
  const wrong = check();
  if (wrong.length) {
    $("estimate").textContent = "";
    return turnTo(wrong[0]);
  }
  $("send").disabled = true;
  try {
    const job = await post("/v1/generations", body());
    follow(job);
    address(job.id, null);
    recent();
    $("result").scrollIntoView({ block: "nearest" });
  } catch (problem) {
    const { fields, rest } = refused(problem);
    refusal(rest);
    if (fields.length) turnTo(fields[0]);
  } finally {
    $("send").disabled = false;
  }
}

// --------------------------------------------------------------------------------------------------------- the result

const NO_CELL = {
  queued: "The cell appears here when the job has finished.", running: "The cell appears here when the job has finished.", succeeded: "Loading…",
  canceled: "This job was cancelled: there is no cell to show.", failed: "This job failed: there is no cell to show.",
  expired: "The files of this job were removed after their retention time. Generate it again with the same seed.",
};
const asks = () => new URLSearchParams(location.search);

function address(id, cell, replace = false) {
  const query = new URLSearchParams();
  if (id) query.set("job", id);
  if (id && cell) query.set("cell", cell);
  const target = `/${id ? `?${query}` : ""}`;
  if (target !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", target);
}

async function visit() {
  // Show the job and the cell that the address names.
  const id = asks().get("job");
  if (id === shown) {
    const cell = $("cell").options[Number(asks().get("cell") ?? 0)];
    if (cell && !cell.selected) { cell.selected = true; $("cell").onchange?.(); }
    return;
  }
  if (id) return follow({ id, links: {} });
  blank(null);
  $("progress").hidden = true;
}

function blank(id) {
  stream?.close();
  turn++;
  shown = id;
  viewer?.clear();
  $("cell").replaceChildren();
  for (const part of ["downloads", "playback", "canvas"]) $(part).hidden = true;
  stage(NO_CELL.queued);
}

function stage(text) {
  $("stage-note").hidden = false;
  $("stage-note").textContent = text;
}

async function follow(job) {
  // Follow a job until it has ended. While the service does not answer, report that and try again.
  blank(job.id);
  const mine = turn;
  $("progress").hidden = false;
  if (job.state) tell(job.state, job.progress);
  else $("state").textContent = "Loading the job";
  $("cancel").hidden = !job.state || FINAL.has(job.state);
  let known = job.state ? job : null;
  for (let pause = 1; mine === turn; pause = Math.min(10, 2 * pause)) {
    try {
      known ??= await call(`/v1/jobs/${encodeURIComponent(job.id)}`);
      if (mine !== turn) return;
      tell(known.state, known.progress);
      if (FINAL.has(known.state)) return await finished(known, mine);
      if (await streamed(known, mine)) pause = 0.5;
      else await sleep(pause);
    } catch (problem) {
      if (mine !== turn) return;
      $("state").textContent = problem instanceof Away ? `${problem.message} Trying again…` : problem.message;
      if (!(problem instanceof Away)) {
        $("cancel").hidden = true;
        return stage(problem.message);
      }
      await sleep(pause);
    }
    known = null;
  }
}

function streamed(job, mine) {
  // Report the events of a job until its stream ends; resolves with whether there was any event.
  return new Promise((done) => {
    const source = stream = new EventSource(job.links.events);
    let told = false;
    const end = () => { source.close(); done(told); };
    source.addEventListener("progress", (event) => {
      if (mine !== turn) return end();
      told = true;
      tell("running", parse(event.data));
    });
    source.addEventListener("state", (event) => {
      if (mine !== turn) return end();
      told = true;
      const { state } = parse(event.data);
      tell(state, { fraction: 0 });
      if (FINAL.has(state)) end();
    });
    source.addEventListener("error", end);
  });
}

async function cancel() {
  const id = shown;
  if (!id) return;
  try {
    const job = await post(`/v1/jobs/${id}/cancel`);
    if (id === shown) tell(job.state, job.progress);
  } catch (problem) {
    if (id === shown) $("state").textContent = `${problem.message} The job was not cancelled.`;
  }
}

function tell(state, progress) {
  const part = state === "running" && progress?.frames ? `: frame ${progress.frame} of ${progress.frames}` : "";
  const left = state === "running" && progress?.eta_s ? `, ${span(progress.eta_s)} to go` : "";
  $("state").textContent = SAID[state] + part + left;
  $("bar").value = state === "succeeded" ? 1 : progress?.fraction ?? 0;
  $("cancel").hidden = FINAL.has(state);
  if (FINAL.has(state)) stage(NO_CELL[state]);
}

async function finished(job, mine) {
  recent();
  if (job.error) $("state").textContent = `Failed: ${job.error.message}`;
  if (job.state !== "succeeded") return;
  const { files, next } = await call(job.links.files);
  if (mine !== turn) return;
  $("archive").href = job.links.archive;
  $("manifest").href = job.links.manifest;
  $("files-summary").textContent = `${next ? "the first " : ""}${files.length} ${files.length === 1 ? "file" : "files"}, ${size(files.reduce((sum, f) => sum + f.bytes, 0))}`;
  $("files").replaceChildren(...files.map((file) => {
    const item = element("li");
    item.append(element("a", file.name, { href: file.href, download: "" }), ` ${size(file.bytes)}`);
    return item;
  }));
  const pictures = files.filter((f) => f.name.endsWith("/preview.png"));
  $("previews").replaceChildren(...pictures.map((f, i) => element("img", undefined, { src: f.href, loading: "lazy", alt: `Frames of cell ${i}, from the first to the last` })));
  $("downloads").hidden = false;
  show(job, files.filter((f) => f.name.endsWith(".stl")), mine);
}

let loads = 0; // viewers loaded; only the latest one is shown

async function show(job, files, mine) {
  if (files.length === 0) {
    return stage("Choose STL to view the cell here.");
  }
  try {
    const { CellViewer } = await import("/static/viewer.js");
    viewer ??= new CellViewer($("canvas"));
  } catch {
    viewer = null;
    return stage("This browser cannot display surfaces; the files are listed below.");
  }
  if (mine !== turn) return;
  const cells = Map.groupBy ? Map.groupBy(files, (f) => f.name.split("/")[0]) : groups(files);
  $("cell").replaceChildren(...[...cells.keys()].map((name, i) => element("option", String(i), { value: name })));
  $("cell-choice").hidden = cells.size < 2;
  const wanted = $("cell").options[Number(asks().get("cell") ?? 0)];
  if (wanted) wanted.selected = true;
  const play = async () => {
    const frames = cells.get($("cell").value);
    const times = job.spec.times;
    const choice = ++loads;
    stage("Loading…");
    try {
      await viewer.load(frames.map((f) => f.href), (loaded) => { if (choice === loads && mine === turn) stage(`Loading frame ${loaded} of ${frames.length}`); });
    } catch {
      if (choice === loads && mine === turn) stage("The surfaces cannot be loaded; the files are listed below.");
      return;
    }
    if (choice !== loads || mine !== turn) return;
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
  $("cell").onchange = () => {
    address(job.id, $("cell").selectedIndex || null, true);
    play();
  };
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
  for (const warning of model.warnings) made.append(element("p", warning));
  return made;
}

async function recent() {
  let jobs;
  try {
    ({ jobs } = await call("/v1/jobs?limit=8"));
  } catch {
    return; // the table stays unchanged
  }
  const rows = jobs.map((job) => {
    const row = element("tr");
    const grid = [job.spec.grid].flat().join("×");
    const count = job.spec.count ?? 1;
    const frames = `${job.spec.times?.length ?? job.spec.frames ?? 1}${count > 1 ? ` × ${count} cells` : ""}`;
    for (const text of [new Date(job.created_at).toLocaleString(), job.model.id, job.spec.seed, frames, grid, SAID[job.state]]) row.append(element("td", String(text)));
    const open = element("button", "Show", { type: "button", class: "quiet", "aria-label": `Show the job of ${job.created_at}` });
    open.onclick = () => { follow(job); address(job.id, null); $("result").scrollIntoView(); };
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

async function answered(path) {
  for (let pause = 1; ; pause = Math.min(10, 2 * pause)) {
    try {
      return await call(path);
    } catch (problem) {
      if (!(problem instanceof Away)) throw problem;
      refusal(`${problem.message} Trying again…`);
      await sleep(pause);
      refusal("");
    }
  }
}

async function start() {
  $("make").noValidate = true; // the page shows its own messages
  $("make").addEventListener("input", changed);
  $("make").addEventListener("submit", send);
  $("cancel").onclick = cancel;
  $("play").onclick = () => viewer?.play(!viewer.playing);
  $("scrub").oninput = () => { viewer?.play(false); viewer?.show(Number($("scrub").value)); };
  addEventListener("popstate", visit);
  visit();
  ({ models } = await answered("/v1/models"));
  $("model").replaceChildren(...models.map((m) => element("option", m.title, { value: m.id })));
  $("cards").replaceChildren(...models.map(card));
  if (models.length === 0) {
    $("cards").replaceChildren(element("p", "No model is installed."));
    $("send").disabled = true;
  } else {
    restore();
    changed();
  }
  recent();
  const { version } = await answered("/v1/version");
  $("version").textContent = `cytosynth ${version}`;
}

start();
