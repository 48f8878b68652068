import { colourAt, make, save, shrunk, zip } from "./files.js";
import { Hints } from "./hints.js";
import * as server from "./server.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const LOOKS = [
  { id: "calm", name: "Calm", network: "regression", options: {} },
  { id: "vivid", name: "Vivid", network: "regression", options: { chroma: 1.6 } },
  { id: "other", name: "Other", network: "classification", options: {} },
];
const THUMB = 240;  // pixels high
const LARGE = 3e6;  // pixels of a photograph that takes long

const photos = [];
let chosen = null;
let usual = null;  // the look that was chosen last
let info;

// A photograph: its file, how it shall look, and what came back for each look.
class Photo {
  look = usual ?? looks()[0].id;
  strength = 100;
  hints = [];
  reach = Math.round(info.spread * 100);  // of hints, in percent of the shorter side
  past = [];
  future = [];
  others = 0;  // looks drawn by chance
  results = new Map();

  constructor(file) {
    this.file = file;
    this.name = file.name;
    this.grey = URL.createObjectURL(file);  // in colour perhaps, until renderGrey
    this.image = make("img", { alt: "" });
    this.words = make("small");
    this.button = make("button", { className: "thumb", onclick: () => choose(this) },
      this.image, make("span", { title: this.name }, make("bdi", { textContent: this.name })),
      this.words);
    this.item = make("li", {}, this.button);
  }

  get looks() {
    const others = Array.from({ length: this.others }, (_, index) => ({
      id: `other-${index}`, name: `Other ${index + 1}`, network: "classification",
      options: { decoding: "sample", seed: index + 1 },
    }));
    return [...looks(), ...others];
  }

  get result() { return this.results.get(this.look); }

  // Options of a request for a look, and for what is downloaded. Without hints the strength of
  // what is shown is the browser's affair; hints keep their colour at any.
  options(look, download = false) {
    const options = { ...look.options };
    const corrected = this.hints.length > 0;
    if (corrected) Object.assign(options, { hints: this.hints, spread: this.reach / 100 });
    if ((corrected || download) && this.strength !== 100) {
      options.chroma = Number(((look.options.chroma ?? 1) * this.strength / 100).toFixed(3));
    }
    if (!download) return options;
    const format = $("format").value;
    if (format !== "jpeg") options.format = format;
    if (format === "png" || format === "tiff") options.bits = "same";  // those of the photograph
    if ($("metadata").checked) options.metadata = "keep";
    if ($("provenance").checked) options.provenance = "yes";
    return options;
  }
}

function looks() { return LOOKS.filter((look) => info.networks.includes(look.network)); }

// Ask for a look's colours unless they are there; ends when they are, or can't be had. While hints
// are changed, a large photograph's colours are shown on a small copy first.
function render(photo, look) {
  const options = photo.options(look);
  const key = JSON.stringify(options);
  const old = photo.results.get(look.id);
  if (old?.key === key) return old.ended;
  old?.controller.abort();
  const result = { ...old, key, blob: null, failure: null, controller: new AbortController() };
  photo.results.set(look.id, result);
  const { signal } = result.controller;
  const urgency = () => (photo === chosen ? 0 : 2) + (look.id === photo.look ? 0 : 1);
  const strength = photo.hints.length ? photo.strength : 100;
  const ask = async (file) => {
    const blob = await server.colour(file, look.network, options, signal, urgency);
    const small = await shrunk(blob, THUMB);
    if (signal.aborted) return;
    for (const url of [result.url, result.thumb]) setTimeout(URL.revokeObjectURL, 9000, url);
    const [url, thumb] = [blob, small].map((one) => URL.createObjectURL(one));
    Object.assign(result, { small, url, thumb, strength });
    if (file === photo.file) result.blob = blob;
    show(photo);
  };
  result.ended = (async () => {
    if (photo.copy && photo.hints.length) {
      await ask(photo.copy);
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
    await ask(photo.file);
  })().catch((error) => {
    if (signal.aborted) return;
    result.failure = error.message;
    show(photo);
  });
  show(photo);
  return result.ended;
}

// The photograph in grey, as the colours lie over it: upright, whatever its format.
async function renderGrey(photo) {
  if (photo.isGrey) return;
  photo.isGrey = true;
  const [look] = looks();
  const urgency = () => (photo === chosen ? 0.5 : 2.5);
  const grey = await server.colour(photo.file, look.network, { chroma: 0 }, undefined, urgency)
    .catch(() => null);
  if (!grey) return;
  URL.revokeObjectURL(photo.grey);
  photo.grey = URL.createObjectURL(grey);
  photo.small = await shrunk(grey, 320, "image/jpeg");
  const { width, height } = await createImageBitmap(grey);
  if (width * height > LARGE) photo.copy = await shrunk(grey, 1000, "image/jpeg");
  show(photo);
}

async function add(files) {
  const before = photos.length;
  for (const file of files) {
    if (/\.json$/i.test(file.name)) {
      if (chosen) loadHints(file);
      continue;
    }
    const photo = new Photo(file);
    photos.push(photo);
    $("strip").append(photo.item);
    if (file.size > info.bytes) {
      const most = Math.round(info.bytes / 2 ** 20);
      photo.failure = `The file has ${Math.ceil(file.size / 2 ** 20)} MB; ${most} MB are the most.`;
      show(photo);
    }
  }
  const added = photos.slice(before);
  if (added.length) {
    choose(added[0]);
    added[0].button.focus({ preventScroll: true });
  }
  added.forEach(refresh);
  for (const photo of added) {  // one by one: decoded, each may take 200 MB
    const small = await shrunk(photo.file, THUMB);
    photo.first = small && URL.createObjectURL(small);
    show(photo);
  }
}

function choose(photo) {
  chosen = photo;
  hints.close();
  viewer.fit();
  $("empty").hidden = Boolean(photo);
  for (const id of ["work", "add", "download-all"]) $(id).hidden = !photo;
  for (const other of photos) other.button.setAttribute("aria-current", other === photo);
  if (!photo) return showStatus();
  photo.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  showLooks(photo);
  show(photo);
  refresh(photo);
}

// Ask for all that a photograph lacks: if one look fails, so would the others.
async function refresh(photo) {
  if (photo.failure) return;
  await render(photo, photo.looks.find((look) => look.id === photo.look));
  if (photo !== chosen || photo.result.failure) return;
  renderGrey(photo);
  for (const look of photo.looks) render(photo, look);
}

function remove(photo) {
  const index = photos.indexOf(photo);
  for (const { controller, url, thumb } of photo.results.values()) {
    controller.abort();
    for (const one of [url, thumb, photo.grey, photo.first]) URL.revokeObjectURL(one);
  }
  photos.splice(index, 1);
  photo.item.remove();
  choose(photos[Math.min(index, photos.length - 1)] ?? null);
  (chosen ? chosen.button : $("choose")).focus();
}

function picture(image, url) {
  if (url) image.src = url; else image.removeAttribute("src");
}

// Show how far a photograph is: in the strip, and if it is the chosen one, large.
function show(photo) {
  const { result } = photo;
  const failure = photo.failure ?? result?.failure;
  const done = Boolean(result?.blob);
  picture(photo.image, result?.thumb ?? photo.first);
  const first = !done && !result?.url;
  photo.button.className = `thumb ${failure ? "failed" : first ? "busy" : "done"}`;
  photo.words.textContent = failure?.split(/[;.]/)[0] ?? (first ? "Colouring…" : "");
  showStatus();
  if (photo !== chosen) return;
  $("name").textContent = $("name").title = photo.name;
  viewer.show(photo.grey, result?.url ?? null, photo.name);
  viewer.strength = photo.strength / (result?.strength || 100);
  $("stage").classList.toggle("busy", !done && !failure);
  $("work").classList.toggle("failed", Boolean(failure) && !photo.hints.length);
  $("failure").hidden = !failure;
  if (failure) {
    $("failure").replaceChildren(
      make("p", {}, make("strong", { textContent: photo.name }), " could not be coloured. ", failure),
      make("button", { textContent: "Try again", hidden: Boolean(photo.failure),
        onclick: () => { photo.results.clear(); refresh(photo); } }),
      make("button", { textContent: "Remove it", onclick: () => remove(photo) }));
  }
  for (const look of photo.looks) {
    const one = photo.results.get(look.id);
    const label = $(`look-${look.id}`);
    if (!label) continue;
    picture(label.querySelector("img"), one?.thumb ?? photo.first);
    label.classList.toggle("busy", !one?.url && !one?.failure);
    label.querySelector("input").checked = look.id === photo.look;
  }
  $("strength").value = photo.strength;
  $("strength-value").textContent = $("strength").ariaValueText = `${photo.strength} %`;
  $("reach").value = photo.reach;
  $("reach").parentElement.hidden = !photo.hints.length;
  hints.show(photo.hints);
  $("undo").disabled = !photo.past.length;
  $("redo").disabled = !photo.future.length;
  $("clear").disabled = $("save-hints").disabled = !photo.hints.length;
  $("download").disabled = Boolean(failure);
}

function showStatus() {
  const done = photos.filter((photo) => photo.result?.url && !photo.result.failure).length;
  const failed = photos.filter((photo) => photo.failure ?? photo.result?.failure).length;
  const words = [`${done} of ${photos.length} in colour`];
  if (failed) words.push(`${failed} failed`);
  const text = photos.length ? words.join(", ") : "";
  if ($("status").textContent !== text) $("status").textContent = text;
}

function showLooks(photo) {
  $("looks").replaceChildren(...photo.looks.map((look) => {
    const radio = make("input", { type: "radio", name: "look", value: look.id });
    radio.addEventListener("change", () => {
      photo.look = look.id;
      if (LOOKS.some((one) => one.id === look.id)) usual = look.id;
      show(photo);
    });
    return make("label", { className: "look", id: `look-${look.id}` }, radio,
      make("img", { alt: "" }), make("span", { textContent: look.name }));
  }));
  $("more").hidden = !info.networks.includes("classification") || photo.others >= 6;
}

// Change a photograph's hints, so that it can be undone.
function correct(photo, list) {
  photo.past.push(photo.hints);
  Object.assign(photo, { hints: list, future: [], saved: false });
  refresh(photo);
  show(photo);
}

// Go back, or forth again: take hints from one list of states, and put the present ones on another.
function step(photo, from, to) {
  if (!photo[from].length) return;
  photo[to].push(photo.hints);
  Object.assign(photo, { hints: photo[from].pop(), saved: false });
  refresh(photo);
  show(photo);
}

async function loadHints(file) {
  const photo = chosen;
  try {
    const list = JSON.parse(await file.text());
    const right = (hint) => hint && (hint.points?.length || (hint.x >= 0 && hint.y >= 0));
    if (!Array.isArray(list) || !list.every(right)) throw new Error();
    correct(photo, list);
    correctColours(true);
  } catch {
    $("hint-help").textContent = `${file.name} holds no corrections that were saved here.`;
  }
}

const stem = (photo) => photo.name.replace(/\.[^.]*$/, "");

// What is downloaded: at full size, with the strength of the slider.
async function finished(photo) {
  const look = photo.looks.find((one) => one.id === photo.look);
  const options = photo.options(look, true);
  const { result } = photo;
  const there = result?.blob && result.key === JSON.stringify(options);
  const blob = there ? result.blob : await server.colour(photo.file, look.network, options);
  const ending = $("format").value.replace("jpeg", "jpg").replace("tiff", "tif");
  return [`${stem(photo)}-colour.${ending}`, blob];
}

async function working(button, words, work) {
  const usualWords = button.textContent;
  button.disabled = true;
  button.textContent = words;
  try {
    await work();
  } catch (error) {
    $("status").textContent = error.message;
  }
  button.disabled = false;
  button.textContent = usualWords;
}

async function downloadAll() {
  const files = new Map();
  const put = (name, blob) => {
    for (let count = 2, first = name; files.has(name); count++) name = `${count}-${first}`;
    files.set(name, blob);
  };
  const whole = photos.filter((one) => one.result && !one.result.failure);
  for (const [index, photo] of whole.entries()) {
    $("download-all").textContent = `${index + 1} of ${whole.length}…`;
    put(...await finished(photo));
    if (photo.hints.length) put(`${stem(photo)}-hints.json`, hintsFile(photo));
    photo.saved = true;
  }
  save(await zip([...files]), "colour.zip");
}

const hintsFile = (photo) =>
  new Blob([JSON.stringify(photo.hints, null, 1)], { type: "application/json" });

const viewer = new Viewer();
const hints = new Hints(viewer, (list) => correct(chosen, list), likely);

// Likely colours of a place, [[what they are, "#rrggbb"]]: the network's, and the looks'.
async function likely({ x, y }) {
  const photo = chosen;
  const network = info.networks.at(-1);
  const options = { likely: `${x},${y}` };
  const found = await server.colour(photo.small ?? photo.file, network, options)
    .then(async (reply) => JSON.parse(await reply.text()).colours).catch(() => []);
  const list = found.map((hex) => [hex, hex]);
  for (const look of looks()) {
    const { small } = photo.results.get(look.id) ?? {};
    if (small) list.push([`As in ${look.name}`, await colourAt(small, { x, y })]);
  }
  return list.slice(0, 8);
}

// Whether clicks in the photograph correct its colours.
function correctColours(on) {
  $("hint-mode").setAttribute("aria-pressed", on);
  $("hint-help").textContent = on
    ? "Click what has a wrong colour, or move the cross with the arrow keys and press Enter." : "";
  $("stage").classList.toggle("correcting", on);
  viewer.cross = on ? { x: 0.5, y: 0.5 } : null;
  viewer.split = on ? 0 : 50;
  hints.close();
  viewer.draw();
  if (!on) return;
  $("viewer").focus({ preventScroll: true });
  $("stage").scrollIntoView({ block: "nearest" });
}

function connect() {
  const pick = () => $("files").click();
  $("choose").onclick = $("add").onclick = pick;
  $("files").onchange = () => { add($("files").files); $("files").value = ""; };
  for (const button of document.querySelectorAll("[data-example]")) {
    const name = button.dataset.example;
    button.onclick = async () => {
      add([new File([await (await fetch(`examples/${name}`)).blob()], name)]);
    };
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add(event.clipboardData.files);
  });
  let depth = 0;
  const dragging = (change) => (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    depth = Math.max(0, change(depth));
    $("dropping").hidden = !depth;
  };
  document.addEventListener("dragenter", dragging((count) => count + 1));
  document.addEventListener("dragleave", dragging((count) => count - 1));
  document.addEventListener("dragover", dragging((count) => count));
  document.addEventListener("drop", (event) => {
    dragging(() => 0)(event);
    add(event.dataTransfer.files);
  });
  $("zoom-in").onclick = () => viewer.zoom(1.5);
  $("zoom-out").onclick = () => viewer.zoom(1 / 1.5);
  $("zoom-fit").onclick = () => viewer.fit();
  $("zoom-full").onclick = () => viewer.full();
  for (const name of ["strength", "reach"]) {
    $(name).oninput = () => { chosen[name] = $(name).valueAsNumber; show(chosen); };
    $(name).onchange = () => refresh(chosen);
  }
  $("more").onclick = () => { chosen.others += 2; showLooks(chosen); show(chosen); refresh(chosen); };
  $("hint-mode").onclick = () => correctColours(!viewer.cross);
  $("undo").onclick = () => step(chosen, "past", "future");
  $("redo").onclick = () => step(chosen, "future", "past");
  $("clear").onclick = () => correct(chosen, []);
  $("save-hints").onclick = () => {
    chosen.saved = true;
    save(hintsFile(chosen), `${stem(chosen)}-hints.json`);
  };
  $("load-hints").onclick = () => $("hints-file").click();
  $("hints-file").onchange = () => { loadHints($("hints-file").files[0]); $("hints-file").value = ""; };
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (!chosen || !(event.ctrlKey || event.metaKey) || !"yz".includes(key)) return;
    if (event.target.matches("input:not([type])")) return;  // it has its own
    event.preventDefault();
    if (key === "z" && !event.shiftKey) step(chosen, "past", "future");
    else step(chosen, "future", "past");
  });
  $("download").onclick = () => working($("download"), "Preparing…", async () => {
    const [name, blob] = await finished(chosen);
    chosen.saved = true;
    save(blob, name);
  });
  $("download-all").onclick = () => working($("download-all"), "Preparing…", downloadAll);
  $("remove").onclick = () => remove(chosen);
  viewer.addEventListener("draw", () => {
    const [width, height] = viewer.size;
    $("size").textContent = width > 1 ? `${width} × ${height} pixels` : "";
    $("viewer").style.setProperty("--aspect", width / height);
  });
  window.addEventListener("beforeunload", (event) => {
    if (photos.some((photo) => photo.hints.length && !photo.saved)) event.preventDefault();
  });
}

info = await server.info();
$("where").textContent = info.where
  ? `They are sent to ${info.where} and stored nowhere.`
  : "They stay on the computer that runs this page, and are stored nowhere.";
connect();
