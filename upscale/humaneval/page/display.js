// Pictures on the screen: at whole device pixels, for a set time, measured in frames.

const DENSE = 2; // device pixels in a CSS pixel, from which pictures are magnified
const GAP = 32; // device pixels between two pictures
const FRAMES = 9; // whose median is the length of a frame

// Give each picture its box [left, top, width, height] below `top` (CSS pixels), in device pixels,
// beside each other or below each other, whichever lets them be larger. A pixel of theirs is one of
// the device, or on a dense screen `zoom` squared, as many as there is room for. `way` is "beside",
// "stacked", or null where they fit neither way; then `needs` tells [width, height] in CSS pixels.
export function arrange(pictures, top) {
  const dpr = window.devicePixelRatio;
  const room = [Math.floor(window.innerWidth * dpr), Math.floor((window.innerHeight - top) * dpr)];
  const gaps = (pictures.length - 1) * GAP;
  const sum = (side) => pictures.reduce((all, p) => all + p[side], 0);
  const most = (side) => Math.max(...pictures.map((p) => p[side]));
  const fit = (along, across, [length, breadth]) =>
    Math.floor(Math.min((length - gaps) / sum(along), breadth / most(across)));
  const ways = [fit("width", "height", room), fit("height", "width", [room[1], room[0]])];
  const largest = Math.max(...ways);
  if (largest < 1) {
    const needs = [(sum("width") + gaps) / dpr, most("height") / dpr + top].map(Math.ceil);
    return { way: null, needs };
  }
  const zoom = dpr < DENSE ? 1 : largest;
  const beside = ways[0] >= zoom;
  const start = Math.ceil(top * dpr);
  let at = Math.floor((room[beside ? 0 : 1] - gaps - zoom * sum(beside ? "width" : "height")) / 2);
  const boxes = pictures.map((p) => {
    const [width, height] = [zoom * p.width, zoom * p.height];
    const across = Math.floor((room[beside ? 1 : 0] - (beside ? height : width)) / 2);
    const place = beside ? [at, start + across] : [across, start + at];
    at += (beside ? width : height) + GAP;
    return [...place, width, height];
  });
  return { way: beside ? "beside" : "stacked", zoom, boxes };
}

// Set the elements to their boxes, whole device pixels however the browser is zoomed.
export function settle(images, boxes) {
  const dpr = window.devicePixelRatio;
  images.forEach((image, i) => ["left", "top", "width", "height"].forEach((side, j) => {
    image.style[side] = `${boxes[i][j] / dpr}px`;
  }));
}

const nextFrame = () => new Promise((done) => requestAnimationFrame(done));

// The length of a frame in milliseconds; takes as many frames as it looks at.
export async function frameLength() {
  const gaps = [];
  let last = await nextFrame();
  for (let i = 0; i < FRAMES; i++) {
    const now = await nextFrame();
    gaps.push(now - last);
    last = now;
  }
  return gaps.sort((a, b) => a - b)[(FRAMES - 1) / 2];
}

// Show the stage for `milliseconds`, to the frame nearest to it, and hide it again. The clock
// starts with the frame in which all pictures, decoded beforehand, are painted. Resolves to the
// time they stood and that of their end; rejects if the window is hidden or changed meanwhile.
export function show(stage, milliseconds, frame) {
  return new Promise((resolve, reject) => {
    let asked = null;
    let start = null;
    let over = false;
    const end = (settle, value) => {
      over = true;
      stage.classList.remove("on");
      document.removeEventListener("visibilitychange", broken);
      window.removeEventListener("resize", broken);
      window.visualViewport?.removeEventListener("resize", broken);
      settle(value);
    };
    const broken = () => over || end(reject, new Error("interrupted"));
    document.addEventListener("visibilitychange", broken);
    window.addEventListener("resize", broken);
    window.visualViewport?.addEventListener("resize", broken);
    const tick = (now) => {
      if (over) return;
      if (asked === null) {
        asked = now;
        stage.classList.add("on"); // painted at the end of this frame
      } else if (start === null) {
        start = now - asked > 1.5 * frame ? now - frame : asked; // late: with the last frame
      }
      if (start !== null && now - start >= milliseconds - frame / 2) {
        end(resolve, { shown: now - start, ended: now });
      } else {
        requestAnimationFrame(tick);
      }
    };
    requestAnimationFrame(tick);
  });
}

// The browser's own account (Element Timing): when it painted what carries `elementtiming`.
export class Paints {
  constructor() {
    this.times = new Map();
    this.observer = null;
    if (window.PerformanceObserver?.supportedEntryTypes?.includes("element")) {
      this.observer = new PerformanceObserver((list) => this.take(list.getEntries()));
      this.observer.observe({ type: "element", buffered: true });
    }
  }

  take(entries) {
    for (const entry of entries) this.times.set(entry.identifier, entry.renderTime);
  }

  // Milliseconds from the paint of the last of `first` to that of `then`; null where unknown.
  between(first, then) {
    if (this.observer) this.take(this.observer.takeRecords());
    const starts = first.map((name) => this.times.get(name));
    const end = this.times.get(then);
    if (!end || starts.some((time) => !time)) return null;
    return end - Math.max(...starts);
  }
}
