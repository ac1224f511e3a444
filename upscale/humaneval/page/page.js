// One subject's way through the study. The server decides what is due; this page shows it.

import { Paints, arrange, frameLength, settle, show } from "/display.js";

const FIXATION_MS = 500;
const PAINT_WAIT_MS = 250; // for the browser's account of what it painted
const RETRY_MS = [500, 1000, 2000, 4000];
const $ = (id) => document.getElementById(id);
const stage = $("stage");
const paints = new Paints();
const loaded = new Map(); // address -> <img>, decoded
let tab = null;
let paused = false; // while a choice waits
let breaks = 0; // how often it was paused
let seen = null; // kind of the trial before this one
let round = 0; // every display has its own names in Element Timing

class Gone extends Error {} // another tab took over, or the study is closed to this one

// --- the server ------------------------------------------------------------------------------

// Posts until the server has said something. Returns its answer; throws {code} for a refusal.
async function api(name, body = {}) {
  for (let tries = 0; ; tries++) {
    const wait = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    let response = null;
    try {
      response = await fetch(`/api/${name}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...body, tab }),
      });
      const told = await response.json().catch(() => ({ error: response.statusText }));
      if (response.ok) {
        notice("");
        if (told.tab) tab = told.tab;
        return told;
      }
      if (response.status < 500) throw Object.assign(new Gone(told.error), told);
    } catch (error) {
      if (error instanceof Gone) throw error;
    }
    notice("The connection is lost. Trying again; nothing you answered is gone.");
    await new Promise((done) => setTimeout(done, wait));
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// --- screens ---------------------------------------------------------------------------------

function element(tag, text = "", settings = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, settings);
}

function put(...parts) {
  $("screen").replaceChildren(...parts);
}

// A page of text with one button; resolves when it is pressed.
function page(name, title, paragraphs, button) {
  return new Promise((done) => {
    const text = element("div", "", { className: "text" });
    const go = element("button", button, { type: "button", onclick: done });
    text.append(element("h1", title), ...paragraphs.map((p) => element("p", p)));
    if (button) text.append(go);
    document.body.dataset.screen = name;
    $("question").textContent = "";
    $("pause").hidden = true;
    put(text);
    (button ? go : $("screen")).focus();
  });
}

function progress(state) {
  $("bar").hidden = state.total === undefined || state.phase !== "trial";
  $("progress").max = state.total ?? 1;
  $("progress").value = state.done ?? 0;
  $("count").textContent = `${(state.done ?? 0) + 1} of ${state.total}`;
}

const count = (number, unit) => `${number} ${unit}${number === 1 ? "" : "s"}`;

const instructions = (state) => [
  state.task === 1
    ? "You will see three pictures. The one in the middle is of low resolution; the two others " +
      "are high-resolution versions of it."
    : "You will see two pictures. One of them may be made by a computer.",
  `Look at them for ${count(state.seconds, "second")}. They disappear; then you are asked:`,
  `“${state.question}”`,
  "Click your choice, or press the arrow key that points to where it was. There is no time limit; " +
    "if you are not sure, guess.",
  `There are ${count(state.total, "pair")}` +
    (state.practice ? `, beginning with ${state.practice} for practice` : "") +
    `; that takes about ${count(state.minutes, "minute")}. Pause whenever you like by P or the button.`,
];

// --- one trial -------------------------------------------------------------------------------

async function load(picture) {
  if (!loaded.has(picture.url)) {
    const image = new Image();
    image.decoding = "sync"; // painted in the frame in which it is shown, not some frames later
    image.alt = "";
    image.src = picture.url;
    loaded.set(picture.url, image.decode().then(() => image));
  }
  try {
    return await loaded.get(picture.url);
  } catch (error) {
    loaded.delete(picture.url);
    throw error;
  }
}

async function loadAll(pictures) {
  for (let tries = 0; tries < RETRY_MS.length; tries++) {
    try {
      return await Promise.all(pictures.map(load));
    } catch {
      await new Promise((done) => setTimeout(done, RETRY_MS[tries]));
    }
  }
  throw Object.assign(new Gone("pictures cannot be loaded"), { code: "pictures" });
}

const pinched = () => (window.visualViewport?.scale ?? 1) > 1.01;
const fits = (pictures) => arrange(pictures, $("question").parentElement.offsetHeight);

// Until the window has room for the pictures, tell what it needs.
async function room(state) {
  for (;;) {
    $("question").textContent = state.question; // it takes room as well
    const found = fits(state.trial.pictures);
    if (found.way && !pinched() && !document.hidden) return found;
    const changed = new Promise((done) => {
      const events = [[window, "resize"], [document, "visibilitychange"]];
      if (window.visualViewport) events.push([window.visualViewport, "resize"]);
      for (const [on, name] of events) on.addEventListener(name, done, { once: true });
    });
    page("small", "The window is too small", [
      pinched()
        ? "Please zoom out: the pictures are shown at whole pixels of the screen."
        : `The pictures need ${found.needs?.[0] ?? 0} x ${found.needs?.[1] ?? 0} pixels. Please ` +
          "make the window larger, turn the phone, or zoom out (Ctrl and -).",
    ]);
    await changed;
  }
}

// Fixation, then the pictures for their time. Returns when they ended and what is to be stored.
async function display(state) {
  const { pictures, id } = state.trial;
  const images = await loadAll(pictures);
  const { boxes, way, zoom } = await room(state);
  document.body.dataset.screen = "fixation";
  $("pause").hidden = true;
  put(element("div", "+", { className: "fixation" }));
  const [frame] = await Promise.all([
    frameLength(),
    new Promise((done) => setTimeout(done, FIXATION_MS)),
  ]);
  await api("begin", { trial: id });
  round++;
  images.forEach((image, i) => image.setAttribute("elementtiming", `${round}.${i}`));
  settle(images, boxes);
  stage.replaceChildren(...images);
  put();
  document.body.dataset.screen = "pictures";
  try {
    return { way, zoom, frame, ...(await show(stage, state.seconds * 1000, frame)) };
  } finally {
    stage.replaceChildren();
    images.forEach((image) => image.remove());
  }
}

// Tell the server that the pair was seen, with the browser's own measure of the time if it has one.
async function report(state, { shown, frame, zoom }) {
  const names = state.trial.pictures.map((_, i) => `${round}.${i}`);
  const until = performance.now() + PAINT_WAIT_MS;
  let presented = null;
  while (presented === null && paints.observer && performance.now() < until) {
    await new Promise((done) => setTimeout(done, 20));
    presented = paints.between(names, `${round}.gone`);
  }
  await api("shown", {
    trial: state.trial.id, shown_ms: shown, frame_ms: frame, presented_ms: presented, zoom,
  });
}

// The two buttons; resolves to {side, rt}. `ended`: when the pictures disappeared.
function choice(state, way, ended) {
  return new Promise((done) => {
    const stacked = way === "stacked";
    const names = stacked ? ["Upper", "Lower"] : ["Left", "Right"];
    const arrows = stacked ? ["↑", "↓"] : ["←", "→"];
    const box = element("div", "", { className: `choices ${way}` });
    const before = breaks;
    const choose = (side, event) => {
      window.removeEventListener("keydown", key);
      for (const button of box.children) button.disabled = true;
      document.body.dataset.screen = "chosen"; // nothing to pause while the answer is on its way
      $("pause").hidden = true;
      // without a response time where there was a reload or a pause in between
      const timed = ended !== null && breaks === before;
      done({ side, rt: timed ? Math.max(0, event.timeStamp - ended) : null });
    };
    const key = (event) => {
      if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
      const sides = stacked
        ? { ArrowUp: "left", ArrowDown: "right" }
        : { ArrowLeft: "left", ArrowRight: "right" };
      if (sides[event.key] && !paused) {
        event.preventDefault();
        choose(sides[event.key], event);
      }
    };
    ["left", "right"].forEach((side, i) => {
      const label = element("span", `${names[i]} picture`, { className: "label" });
      if (i === 0) label.setAttribute("elementtiming", `${round}.gone`);
      const button = element("button", "", { type: "button", value: side });
      button.onclick = (event) => choose(side, event);
      button.append(label, element("span", arrows[i], { className: "key" }));
      box.append(button);
    });
    window.addEventListener("keydown", key);
    document.body.dataset.screen = "choice";
    $("question").textContent = state.question;
    $("pause").hidden = false;
    put(box);
    $("screen").focus();
  });
}

async function trial(state) {
  let seenIt = null;
  let stored = Promise.resolve();
  if (!state.trial.shown) {
    seenIt = await display(state);
    stored = report(state, seenIt);
    stored.catch(() => {}); // awaited below, after the choice
  }
  const way = seenIt?.way ?? (fits(state.trial.pictures).way || "beside");
  const chosen = choice(state, way, seenIt?.ended ?? null);
  loaded.clear();
  stored.then(() => (state.next ?? []).forEach((p) => load(p).catch(() => {})), () => {});
  const { side, rt } = await chosen;
  await stored;
  return api("answer", { trial: state.trial.id, side, rt_ms: rt });
}

// --- the way ---------------------------------------------------------------------------------

async function start() {
  let state = await api("state");
  document.title = state.title;
  let first = state.phase === "trial" && state.done > 0;
  if (state.phase === "consent") {
    await page("consent", state.title, state.consent, "I agree, begin");
    state = await api("enrol");
  }
  while (state.phase === "trial") {
    progress(state);
    if (first) {
      await page("resume", "Welcome back", ["The study goes on where you left it."], "Go on");
    } else if (seen === null) {
      await page("instructions", "What to do", instructions(state), "Start");
    } else if (seen === "practice" && state.trial.kind !== "practice") {
      await page("practiced", "Practice is over", ["From now on your choices count."], "Go on");
    }
    first = false;
    seen = state.trial.kind;
    try {
      state = await trial(state);
    } catch (error) {
      if (error.message === "interrupted") {
        // the pair will be shown again, from the start; the report knows
        await page("paused", "Pause", ["The window was hidden or changed."], "Go on");
        state = await api("state");
      } else if (["answered", "seen", "unserved", "early"].includes(error.code)) {
        state = await api("state"); // the server is ahead of us, or behind: it knows
      } else {
        throw error;
      }
    }
  }
  progress(state);
  return finish(state);
}

async function finish(state) {
  if (state.phase === "full") {
    await page("full", "The study is complete", ["It has all its answers. Thank you."]);
    return;
  }
  await page("thanks", "Thank you!", [
    `That was the last pair. Your answers are stored as those of subject ${state.subject}.`,
    "You can close this page. If somebody else wants to take part on this device:",
  ], "Another person");
  await page("consent", state.title, state.consent, "I agree, begin");
  await api("enrol");
  location.reload();
  await new Promise(() => {});
}

async function elsewhere() {
  await page("elsewhere", "The study goes on in another tab", [
    "It was opened a second time. Close this tab, or go on here:",
  ], "Go on here");
  location.reload();
}

// Only a choice can wait: pictures have their time.
function pause() {
  if (document.body.dataset.screen !== "choice") return;
  paused = true;
  breaks++;
  const kept = [...$("screen").children];
  const question = $("question").textContent;
  page("paused", "Pause", ["Take your time."], "Go on").then(() => {
    paused = false;
    put(...kept);
    document.body.dataset.screen = "choice";
    $("question").textContent = question;
    $("pause").hidden = false;
    $("screen").focus();
  });
}

$("pause").onclick = pause;
window.addEventListener("keydown", (event) => {
  if ((event.key === "p" || event.key === "P") && !event.ctrlKey && !event.metaKey) pause();
});
start().catch(async (error) => {
  if (error.code === "tab") return elsewhere();
  if (error.code === "full") return finish({ phase: "full" });
  await page("failed", "The study cannot go on", [error.message], "Try again");
  location.reload();
});
