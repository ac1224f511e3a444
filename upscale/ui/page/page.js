// The page of `diffsr ui`. The server keeps the list of pictures; this shows it, and asks.

const $ = (id) => document.getElementById(id);
const KEPT = "diffsr-options"; // the options that were chosen last, in this browser

const entries = new Map(); // number -> what the server told
const lines = new Map(); // number -> the parts of its line in the list
let change = 0; // the server's last change that is shown here
let shown = Number(location.hash.slice(1)) || null; // number of the picture in the viewer
let uploading = 0;

// --- asking the server -------------------------------------------------------------------------

async function ask(path, body, type = "application/json") {
  const how = body === undefined ? {} : { method: "POST", headers: { "Content-Type": type }, body };
  const response = await fetch(path, how);
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  let why = text;
  try { why = JSON.parse(text).error; } catch { /* the guard answers in plain words */ }
  throw new Error(why || `The server answered ${response.status}.`);
}

function post(name, fields) {
  return ask(`/api/${name}`, JSON.stringify(fields));
}

function complain(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Do something for a button; why it failed is shown.
async function attempt(deed) {
  complain("");
  try { await deed(); } catch (error) { complain(error.message); }
  await look();
}

let lost = false; // the server did not answer

async function look() {
  try {
    const told = await ask(`/api/state?since=${change}`);
    if (lost) complain("");
    lost = false;
    take(told);
  } catch (error) {
    lost = true;
    const gone = error instanceof TypeError;
    complain(gone ? "The server does not answer. Was it stopped?" : error.message);
  }
}

async function watch() {
  await look();
  const busy = [...entries.values()].some((one) => ["waiting", "working"].includes(one.state));
  setTimeout(watch, document.hidden || lost ? 3000 : busy ? 300 : 1000);
}

// --- options -----------------------------------------------------------------------------------

let form = [];

function element(tag, more = {}, ...children) {
  const made = Object.assign(document.createElement(tag), more);
  made.append(...children);
  return made;
}

function title(name) {
  return name[0].toUpperCase() + name.slice(1).replace("_", " ");
}

function readable(text) {
  return text.replace(/--/g, "");
}

function checkbox(id, text) {
  const box = element("input", { type: "checkbox", id });
  return element("label", {}, box, text);
}

const BUILD = {
  choice(one) {
    const row = element("div");
    const choices = one.default === null ? ["", ...one.choices] : one.choices;
    for (const choice of choices) {
      const input = element("input", { type: "radio", name: one.name, value: choice });
      input.checked = choice === (one.default ?? "");
      row.append(element("label", {}, input, choice || readable(one.shown)));
    }
    return row;
  },
  number(one) {
    const step = one.most - one.least > 2 ? 0.5 : 0.05;
    const range = { min: one.least, max: one.most, value: one.default ?? one.most };
    const slider = element("input", { type: "range", step, id: one.name, ...range });
    const number = element("input", { type: "number", step: "any", id: `${one.name}-number`, ...range });
    slider.setAttribute("aria-label", `${title(one.name)}, as a slider`);
    number.setAttribute("aria-label", title(one.name));
    slider.addEventListener("input", () => { number.value = slider.value; });
    number.addEventListener("input", () => { slider.value = number.value; });
    const row = element("div", { className: "line" }, slider, number);
    if (one.default === null) row.prepend(checkbox(`${one.name}-auto`, readable(one.shown)));
    return row;
  },
  size(one) {
    const sides = ["width", "height"].map((side) => {
      const input = element("input", { type: "number", min: 1, step: 1, id: side });
      input.setAttribute("aria-label", title(side));
      input.addEventListener("input", () => fill(side));
      return input;
    });
    return element("div", { className: "line" }, checkbox("exact", "exact"), sides[0], "×", sides[1]);
  },
};

// The other side of an exact size, so that the picture in the viewer keeps its shape.
function fill(side) {
  const size = entries.get(shown)?.size;
  const other = side === "width" ? "height" : "width";
  if (!size || !$(side).value) return;
  const ratio = side === "width" ? size[0] / size[1] : size[1] / size[0];
  $(other).value = Math.round(Number($(side).value) * ratio);
}

function build() {
  for (const one of form) {
    const help = element("p", { textContent: one.help, id: `${one.name}-help` });
    const name = element("span", { textContent: title(one.name), id: `${one.name}-name`, className: "title" });
    const set = element("div", { className: "option" }, name, BUILD[one.kind](one), help);
    set.setAttribute("role", "group");
    set.setAttribute("aria-labelledby", name.id);
    set.setAttribute("aria-describedby", help.id);
    $("options").append(set);
  }
  const denoise = form.find((one) => one.name === "denoise");
  if (denoise) $("denoise-auto").checked = true;
  recall();
  $("options").addEventListener("input", chosen);
  $("options").addEventListener("submit", (event) => event.preventDefault());
  enable();
}

function inputs() {
  return [...$("options").querySelectorAll("input")];
}

function recall() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { /* as if there were none */ }
  for (const input of inputs()) {
    if (input.type === "radio") input.checked = input.name in kept ? kept[input.name] === input.value : input.checked;
    else if (!(input.id in kept)) continue;
    else if (input.type === "checkbox") input.checked = kept[input.id];
    else input.value = kept[input.id];
  }
}

function chosen() {
  const kept = {};
  for (const input of inputs()) {
    if (input.type === "radio") { if (input.checked) kept[input.name] = input.value; }
    else kept[input.id] = input.type === "checkbox" ? input.checked : input.value;
  }
  localStorage.setItem(KEPT, JSON.stringify(kept));
  enable();
}

function enable() {
  const exact = $("exact").checked;
  for (const id of ["width", "height"]) $(id).disabled = !exact;
  for (const id of ["scale", "scale-number"]) $(id).disabled = exact;
  const automatic = $("denoise-auto")?.checked;
  for (const id of ["denoise", "denoise-number"]) if ($(id)) $(id).disabled = automatic;
  for (const entry of entries.values()) draw(entry);
}

// What is asked for, by the names of the command's options; null is the default.
function values() {
  const found = {};
  for (const one of form) {
    if (one.kind === "choice") {
      found[one.name] = document.querySelector(`input[name=${one.name}]:checked`).value || null;
    } else if (one.kind === "size") {
      const sides = [Number($("height").value), Number($("width").value)];
      if ($("exact").checked && !(sides[0] && sides[1])) throw new Error("Give the width and the height of the exact size.");
      found.size = $("exact").checked ? sides : null;
    } else {
      const number = $(`${one.name}-number`);
      if (!number.disabled && !number.checkValidity()) throw new Error(`${title(one.name)}: ${number.validationMessage}`);
      found[one.name] = number.disabled ? null : Number(number.value);
    }
  }
  return found;
}

// --- uploads -----------------------------------------------------------------------------------

async function upload(files) {
  const failed = [];
  uploading += files.length;
  for (const file of files) {
    tell();
    try {
      const { number } = await ask(`/api/add?name=${encodeURIComponent(file.name)}`, file, "application/octet-stream");
      if (shown === null || !entries.has(shown)) select(number);
    } catch (error) {
      failed.push(`${file.name}: ${error instanceof TypeError ? "could not be sent" : error.message}`);
    }
    uploading -= 1;
    await look();
  }
  complain(failed.join("\n"));
  tell();
}

// --- the list ----------------------------------------------------------------------------------

const SHOWS = 25e6; // pixels of a picture that the list shows in small

function take(told) {
  change = told.change;
  $("output").textContent = told.output;
  for (const entry of told.entries) {
    const before = entries.get(entry.number)?.state;
    entries.set(entry.number, entry);
    draw(entry);
    if (entry.number === shown) present(before !== entry.state);
  }
  for (const number of [...entries.keys()]) {
    if (told.numbers.includes(number)) continue;
    entries.delete(number);
    lines.get(number)?.li.remove();
    lines.delete(number);
    if (number === shown) select(null);
  }
  if (shown === null && told.numbers.length) select(told.numbers[0]);
  tell(told.left);
}

function of(...states) {
  return [...entries.values()].filter((one) => states.includes(one.state));
}

function numbers(found) {
  return found.map((one) => one.number);
}

let left = "";

// The buttons above the list, and how far all is.
function tell(told) {
  left = told ?? left;
  const ready = of("ready"), open = of("waiting", "working"), made = of("done");
  const unsaved = made.filter((one) => !one.saved);
  $("start").textContent = ready.length === 1 ? "Enlarge 1 picture" : `Enlarge ${ready.length || ""} pictures`.replace("  ", " ");
  $("start").disabled = !ready.length;
  $("save-all").disabled = !unsaved.length;
  $("cancel-all").disabled = !open.length;
  $("clear").disabled = !entries.size || open.length > 0;
  const parts = [];
  if (uploading) parts.push(`Sending ${uploading} more`);
  if (open.length) parts.push(`${open.length} to do`);
  if (open.length && left) parts.push(left);
  if (made.length) parts.push(`${made.length} done`);
  const failed = of("failed").length;
  if (failed) parts.push(`${failed} failed`);
  if (!parts.length) parts.push(entries.size ? "Choose how, and press Enlarge" : "No pictures yet");
  const text = parts.join("; ") + ".";
  if ($("status").textContent !== text) $("status").textContent = text;
}

function line(number) {
  const image = element("img", { alt: "", loading: "lazy", decoding: "async" });
  const name = element("span", { className: "name" }), how = element("span", { className: "how" });
  const pick = element("button", { type: "button", className: "look" }, image, element("span", {}, name, how));
  pick.addEventListener("click", () => select(number));
  const deed = element("button", { type: "button" });
  deed.addEventListener("click", () => attempt(() => post(deed.dataset.does, { numbers: [number] })));
  const progress = element("progress", { max: 1 });
  const li = element("li", {}, pick, deed, progress);
  $("list").append(li);
  const made = { li, image, name, how, pick, deed, progress };
  lines.set(number, made);
  return made;
}

const pixels = (size) => `${size[1]} × ${size[0]}`;

// What is said of a picture below its name.
function account(entry) {
  const from = entry.size ? pixels(entry.size) : "";
  if (entry.state === "ready") return `${from}${aim(entry)}`;
  if (entry.state === "waiting") return `${from}, waits`;
  if (entry.state === "working") return entry.of ? `step ${entry.done} of ${entry.of}` : "begins";
  if (entry.state === "done") return `${pixels(entry.size_out)}, ${entry.seconds}${entry.saved ? `, saved as ${entry.saved}` : ""}`;
  return entry.state === "failed" ? entry.error : "cancelled";
}

// The size that the present options would give.
function aim(entry) {
  if (!entry.size || !$("scale-number")) return "";
  const scale = Number($("scale-number").value);
  if ($("exact").checked) return $("width").value && $("height").value ? `, to be ${$("width").value} × ${$("height").value}` : "";
  return `, to be ${pixels(entry.size.map((side) => Math.floor(side * scale + 0.5)))}`;
}

const DEEDS = { ready: ["remove", "Remove"], waiting: ["cancel", "Cancel"], working: ["cancel", "Cancel"],
  done: ["save", "Save"], failed: ["remove", "Remove"], cancelled: ["remove", "Remove"] };

function draw(entry) {
  const parts = lines.get(entry.number) ?? line(entry.number);
  const { li, image, name, how, pick, deed, progress } = parts;
  const [does, text] = entry.saved ? ["remove", "Remove"] : DEEDS[entry.state];
  li.className = entry.state;
  name.textContent = entry.name;
  how.textContent = account(entry);
  deed.textContent = text;
  deed.dataset.does = does;
  deed.setAttribute("aria-label", `${text} ${entry.name}`);
  progress.hidden = entry.state !== "working";
  progress.setAttribute("aria-label", `Progress of ${entry.name}`);
  if (entry.of) progress.value = entry.done / entry.of; else progress.removeAttribute("value");
  const small = entry.size && entry.size[0] * entry.size[1] <= SHOWS && entry.state !== "failed";
  if (small && !image.hasAttribute("src")) image.src = `/picture/${entry.number}/before`;
  image.hidden = !small;
  pick.setAttribute("aria-current", String(entry.number === shown));
}

// --- the viewer --------------------------------------------------------------------------------

const view = { width: 0, height: 0, zoom: 1, fitted: true, x: 0, y: 0, split: 0.5 };
// zoom: device pixels of a pixel of the result; x, y: where its corner is on the stage, in CSS pixels

function select(number) {
  shown = number;
  history.replaceState(null, "", number === null ? location.pathname : `#${number}`);
  for (const entry of entries.values()) draw(entry);
  present(true);
}

// Show what is known of the picture; anew: another one, or it has come to another state.
function present(anew) {
  const entry = entries.get(shown);
  $("viewer").hidden = !entry;
  if (!entry) return;
  const done = entry.state === "done";
  $("title").textContent = entry.name;
  $("reason").textContent = done ? "" : entry.state === "failed" ? entry.error : `${title(entry.state)}: ${account(entry)}`;
  $("facts").replaceChildren(...(entry.facts ?? []).flatMap(([term, text]) =>
    [element("dt", { textContent: term }), element("dd", { textContent: text })]));
  $("typed").hidden = !done;
  $("command").textContent = entry.command ?? "";
  for (const id of ["after", "divider", "left", "right"]) $(id).hidden = !done;
  $("split").disabled = !done;
  $("deeds").hidden = ["ready", "waiting", "working"].includes(entry.state);
  $("save").hidden = $("download").hidden = !done;
  $("save").textContent = entry.saved ? `Saved as ${entry.saved}` : "Save";
  $("save").disabled = Boolean(entry.saved);
  $("again").textContent = `${done ? "Enlarge" : "Try"} again with the chosen options`;
  $("download").href = `/picture/${shown}/file`;
  $("stage").hidden = $("tools").hidden = $("keys").hidden = entry.state === "failed" || !entry.size;
  if (!anew || $("stage").hidden) return;
  const size = done ? entry.size_out : entry.size;
  show($("before"), `/picture/${shown}/before`, `${entry.name} before`);
  if (done) show($("after"), `/picture/${shown}/after`, `${entry.name} after`);
  [view.height, view.width] = size;
  view.fitted = true;
  place();
}

function show(image, address, alt) {
  image.alt = alt;
  if (image.getAttribute("src") !== address) image.src = address;
}

function fitting() {
  const { clientWidth, clientHeight } = $("stage");
  const zoom = Math.min(clientWidth / view.width, clientHeight / view.height) * devicePixelRatio;
  return zoom > 1 ? Math.max(1, Math.floor(zoom)) : zoom;
}

// Put both pictures, and what is seen of each, where `view` says.
function place() {
  const stage = $("stage"), dpr = devicePixelRatio;
  if (stage.hidden || !stage.clientWidth) return;
  if (view.fitted) view.zoom = fitting();
  const width = view.width * view.zoom / dpr, height = view.height * view.zoom / dpr;
  view.x = within(view.x, stage.clientWidth, width, view.fitted);
  view.y = within(view.y, stage.clientHeight, height, view.fitted);
  const line = view.split * stage.clientWidth, compared = !$("after").hidden;
  for (const image of [$("before"), $("after")]) {
    image.style.width = `${width}px`;
    image.style.height = `${height}px`;
    image.style.transform = `translate(${view.x}px, ${view.y}px)`;
  }
  const seen = Math.min(width, Math.max(0, line - view.x)); // of the picture, left of the line
  $("before").style.clipPath = compared ? `inset(0 ${width - seen}px 0 0)` : "none";
  $("after").style.clipPath = `inset(0 0 0 ${seen}px)`;
  $("divider").style.left = `${line}px`;
  stage.classList.toggle("large", view.zoom > 1); // pixels of what is shown at its own size are squares
  stage.classList.toggle("alone", !compared);
  $("split").value = Math.round(view.split * 100);
  $("split").setAttribute("aria-valuetext", `${Math.round(view.split * 100)} % before, the rest after`);
  $("zoom").textContent = `${Math.round(view.zoom * 100)} %`;
  $("fit").setAttribute("aria-pressed", String(view.fitted));
  $("pixels").setAttribute("aria-pressed", String(!view.fitted && view.zoom === 1));
}

// Where a picture begins: in the middle if there is room, else without a gap; on whole device pixels.
function within(at, room, length, centred) {
  const found = centred || length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at));
  return Math.round(found * devicePixelRatio) / devicePixelRatio;
}

// Zoom about a place on the stage.
function zoomTo(zoom, x = $("stage").clientWidth / 2, y = $("stage").clientHeight / 2) {
  const to = Math.min(16, Math.max(Math.min(fitting(), 1), zoom)), ratio = to / view.zoom;
  view.x = x - (x - view.x) * ratio;
  view.y = y - (y - view.y) * ratio;
  view.zoom = to;
  view.fitted = false;
  place();
}

function fit() {
  view.fitted = true;
  place();
}

function splitAt(share) {
  view.split = Math.min(1, Math.max(0, share));
  place();
}

function pan(x, y) {
  view.x += x;
  view.y += y;
  view.fitted = false;
  place();
}

const touches = new Map(); // pointers that are down -> where
let dragging = null; // "line" or "picture"

function spread() {
  const [a, b] = [...touches.values()];
  return { length: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
}

function at(event) {
  const box = $("stage").getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function pointerDown(event) {
  if (event.button) return;
  const point = at(event), line = view.split * $("stage").clientWidth;
  $("stage").setPointerCapture(event.pointerId);
  touches.set(event.pointerId, point);
  const near = Math.abs(point.x - line) < (event.pointerType === "touch" ? 32 : 16);
  dragging = !$("divider").hidden && (near || view.fitted) ? "line" : "picture";
  if (dragging === "line" && touches.size === 1) splitAt(point.x / $("stage").clientWidth);
}

function pointerMove(event) {
  const before = touches.get(event.pointerId), now = at(event);
  if (!before) return;
  const pinch = touches.size === 2 ? spread() : null;
  touches.set(event.pointerId, now);
  if (pinch) {
    const after = spread();
    zoomTo(view.zoom * after.length / Math.max(1, pinch.length), after.x, after.y);
  } else if (dragging === "line") splitAt(now.x / $("stage").clientWidth);
  else if (!view.fitted) pan(now.x - before.x, now.y - before.y);
}

function pointerUp(event) {
  touches.delete(event.pointerId);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) pan(-60 * arrow[0], -60 * arrow[1]);
  else if (arrow && arrow[0] && !$("divider").hidden) splitAt(view.split + arrow[0] * 0.02);
  else if (event.key === "Home" && !$("divider").hidden) splitAt(0);
  else if (event.key === "End" && !$("divider").hidden) splitAt(1);
  else if (event.key === "+" || event.key === "=") zoomTo(larger());
  else if (event.key === "-") zoomTo(smaller());
  else if (event.key === "0") fit();
  else if (event.key === "1") zoomTo(1);
  else return;
  event.preventDefault();
}

// The next whole zoom, so that pixels of the result are pixels of the screen.
function larger() {
  return view.zoom < 1 ? Math.min(1, view.zoom * 1.5) : Math.floor(view.zoom) + 1;
}

function smaller() {
  return view.zoom <= 1 ? view.zoom / 1.5 : Math.ceil(view.zoom) - 1;
}

// --- what is done with what --------------------------------------------------------------------

async function copy() {
  try {
    await navigator.clipboard.writeText($("command").textContent);
    $("copy").textContent = "Copied";
  } catch { // only pages of this machine, or over HTTPS, may write there
    getSelection().selectAllChildren($("command"));
    $("copy").textContent = "Press Ctrl+C";
  }
  setTimeout(() => { $("copy").textContent = "Copy"; }, 2000);
}

function filesOf(data) {
  return [...(data?.files ?? [])];
}

function listen() {
  const click = (id, deed) => $(id).addEventListener("click", deed);
  click("start", () => attempt(() => post("start", { numbers: numbers(of("ready")), values: values() })));
  click("save-all", () => attempt(() => post("save", { numbers: numbers(of("done")) })));
  click("cancel-all", () => attempt(() => post("cancel", { numbers: numbers(of("waiting", "working")) })));
  click("clear", () => {
    const unsaved = of("done").filter((one) => !one.saved).length;
    if (unsaved && !confirm(`Results that are not saved are lost: ${unsaved}. Clear the list?`)) return;
    attempt(() => post("remove", { numbers: numbers([...entries.values()]) }));
  });
  click("save", () => attempt(() => post("save", { numbers: [shown] })));
  click("again", () => attempt(async () => {
    const begun = await post("start", { numbers: [shown], values: values() });
    await look();
    select(begun.numbers[0]);
  }));
  click("copy", copy);
  click("fit", fit);
  click("pixels", () => zoomTo(1));
  click("in", () => zoomTo(larger()));
  click("out", () => zoomTo(smaller()));
  $("split").addEventListener("input", () => splitAt(Number($("split").value) / 100));
  $("files").addEventListener("change", () => {
    const files = [...$("files").files];
    $("files").value = "";
    upload(files);
  });
  const stage = $("stage");
  stage.addEventListener("pointerdown", pointerDown);
  stage.addEventListener("pointermove", pointerMove);
  stage.addEventListener("pointerup", pointerUp);
  stage.addEventListener("pointercancel", pointerUp);
  stage.addEventListener("keydown", key);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const point = at(event);
    zoomTo(event.deltaY < 0 ? larger() : smaller(), point.x, point.y);
  }, { passive: false });
  new ResizeObserver(place).observe(stage);
  addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (files.length) upload(files);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    upload(filesOf(event.dataTransfer));
  });
}

async function begin() {
  try {
    form = await ask("/api/form");
  } catch (error) {
    complain(error.message);
    return;
  }
  build();
  listen();
  await watch();
}

begin();
