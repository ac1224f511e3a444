"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const COLOURS = ["#3b6fb6", "#d1495b", "#2a9d6f", "#c98a1b", "#7a55b0", "#4aa3b5", "#8a6d5a", "#999"];
const methods = [...new Set(data.trials.map(t => t.method))];
const colour = method => COLOURS[methods.indexOf(method) % COLOURS.length];
const column = key => data.columns.find(c => c.key === key);
const shown = data.pictures.filter(p => p.cuts);
const number = (v, digits) => v === null || v === undefined ? "-" : v.toFixed(digits);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function options(id, entries, chosen) {
  $(id).replaceChildren(...entries.map(([value, text]) => make("option", {value}, text)));
  if (chosen !== undefined) $(id).value = chosen;
}

// --- tables: heads are texts, rows are lists of {sort, show}, show a text or an element ---------

function table(element, heads, rows) {
  let sorted = -1, down = false;
  const body = make("tbody");
  const buttons = heads.map((head, index) => make("th", {scope: "col"},
    make("button", {type: "button", onclick: () => sort(index)}, head)));
  function sort(index) {
    down = sorted === index && !down;
    sorted = index;
    const sign = down ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [a[index].sort, b[index].sort];
      if (x === null || y === null) return (x === null) - (y === null);  // the unknown come last
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    });
    buttons.forEach((b, i) => i === index
      ? b.setAttribute("aria-sort", down ? "descending" : "ascending")
      : b.removeAttribute("aria-sort"));
    fill();
  }
  function fill() {
    body.replaceChildren(...rows.map(row => make("tr", {}, ...row.map(cell =>
      make("td", {}, ...(Array.isArray(cell.show) ? cell.show : [cell.show]))))));
  }
  fill();
  element.replaceChildren(make("thead", {}, make("tr", {}, ...buttons)), body);
}

const text = value => ({sort: value ?? null, show: String(value ?? "-")});

function best(key) {
  const values = data.trials.map(t => t.means[key][0]).filter(v => v !== null);
  const better = column(key).better;
  if (!better || values.length < 2) return null;
  return better > 0 ? Math.max(...values) : Math.min(...values);
}

function meansTable() {
  const heads = ["method", "calls", "pictures", ...data.columns.map(c => c.title)];
  const tops = Object.fromEntries(data.columns.map(c => [c.key, best(c.key)]));
  table($("means"), heads, data.trials.map(t => [text(t.name), text(t.nfe), text(t.pictures),
    ...data.columns.map(c => {
      const [value, low, high] = t.means[c.key];
      const shownValue = number(value, c.digits);
      const show = [value !== null && value === tops[c.key] ? make("b", {}, shownValue) : shownValue];
      if (low !== null) show.push(make("br"), make("small", {},
        `${number(low, c.digits)}..${number(high, c.digits)}`));
      return {sort: value, show};
    })]));
}

function differencesTables() {
  const keys = [...new Set(data.differences.map(d => d.metric))];
  for (const against of new Set(data.differences.map(d => d.against))) {
    const own = data.differences.filter(d => d.against === against);
    const element = make("table");
    table(element, [`less ${against}`, "pictures", ...keys.map(k => column(k).title)],
      [...new Set(own.map(d => d.trial))].map(name => [text(name),
        text(own.find(d => d.trial === name).pictures), ...keys.map(key => {
          const d = own.find(d => d.trial === name && d.metric === key);
          const digits = column(key).digits;
          if (!d || d.difference === null) return text(null);
          const show = [number(d.difference, digits), " ",
            d.verdict === "same" ? d.verdict : make("b", {}, d.verdict)];
          if (d.low !== null) show.push(make("br"), make("small", {},
            `${number(d.low, digits)}..${number(d.high, digits)}`));
          return {sort: d.difference, show};
        })]));
    $("differences").append(element);
  }
}

function publishedTables() {
  $("published").replaceChildren(...data.published.flatMap(p => {
    const columns = data.columns.filter(c => p.rows.some(r => c.key in r));
    const inner = make("table", {class: "published"});
    table(inner, ["method (published)", ...columns.map(c => c.title)], p.rows.map(r =>
      [text(r.method), ...columns.map(c => text(r[c.key]))]));
    return [make("h3", {}, `Published, not measured here: ${p.source}`), make("p", {},
      `x${p.scale}. ${p.protocol}. Small differences between that table and ours mean nothing.`),
      make("div", {class: "wide"}, inner)];
  }));
}

// --- plots --------------------------------------------------------------------------------------

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function ticks(low, high, log) {
  if (log) {
    const all = [];
    for (let p = -4; p < 6; p++) for (const m of [1, 2, 5]) all.push(m * 10 ** p);
    const inside = all.filter(t => t >= low * .999 && t <= high * 1.001);
    return inside.length > 1 ? inside : [low, high];
  }
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(m => m * power >= raw) * power;
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(t);
  return found;
}

// points: {x, y, ys, name, method}; ys are the ends of y's interval, or null
function plot(title, xTitle, yTitle, points, log) {
  const [W, H, L, R, T, B] = [380, 300, 52, 12, 26, 40];
  points = points.filter(p => p.x !== null && p.y !== null);
  const without = log ? points.filter(p => p.x <= 0) : [];  // no network: a level, not a point
  points = points.filter(p => !without.includes(p));
  const frame = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title});
  frame.append(svg("text", {x: L, y: 14, "font-weight": 600}, title));
  if (!points.length) {
    frame.append(svg("text", {x: L, y: 60}, "nothing to draw"));
    return frame;
  }
  const range = (values, isLog) => {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (isLog) return [low / 1.3, high * 1.3];
    const pad = (high - low || Math.abs(high) * .1 || 1) * .15;
    return [low - pad, high + pad];
  };
  // of the means: intervals over pictures are far wider than methods differ, and may be cut
  const xr = range(points.map(p => p.x), log);
  const yr = range([...points, ...without].map(p => p.y), false);
  const f = log ? Math.log : v => v;
  const px = v => L + (f(v) - f(xr[0])) / (f(xr[1]) - f(xr[0])) * (W - L - R);
  const inside = v => Math.min(yr[1], Math.max(yr[0], v));
  const py = v => H - B - (inside(v) - yr[0]) / (yr[1] - yr[0]) * (H - T - B);
  for (const t of ticks(...xr, log)) frame.append(
    svg("line", {class: "axis", x1: px(t), x2: px(t), y1: T, y2: H - B, "stroke-width": .3}),
    svg("text", {x: px(t), y: H - B + 14, "text-anchor": "middle"}, String(+t.toPrecision(3))));
  for (const t of ticks(...yr, false)) frame.append(
    svg("line", {class: "axis", x1: L, x2: W - R, y1: py(t), y2: py(t), "stroke-width": .3}),
    svg("text", {x: L - 5, y: py(t) + 4, "text-anchor": "end"}, String(+t.toPrecision(4))));
  frame.append(svg("text", {x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle"}, xTitle),
    svg("text", {transform: `translate(12 ${(T + H - B) / 2}) rotate(-90)`,
      "text-anchor": "middle"}, yTitle));
  for (const p of without) frame.append(svg("line", {x1: L, x2: W - R, y1: py(p.y), y2: py(p.y),
    stroke: colour(p.method), "stroke-dasharray": "5 4"},
    svg("title", {}, `${p.name}\n${yTitle} ${+p.y.toPrecision(4)}`)));
  if (log) for (const method of methods) {  // the points of a method, from few calls to many
    const own = points.filter(p => p.method === method && !p.published).sort((a, b) => a.x - b.x);
    frame.append(svg("polyline", {fill: "none", stroke: colour(method), "stroke-opacity": .5,
      points: own.map(p => `${px(p.x)},${py(p.y)}`).join(" ")}));
  }
  for (const p of points) {
    const c = p.published ? "currentColor" : colour(p.method);
    if (p.ys && !p.published) frame.append(svg("line", {x1: px(p.x), x2: px(p.x), y1: py(p.ys[0]),
      y2: py(p.ys[1]), stroke: c, "stroke-opacity": .25}));
    frame.append(svg("circle", {cx: px(p.x), cy: py(p.y), r: 4.5, class: "point",
      fill: p.published ? "none" : c, stroke: c},
      svg("title", {}, `${p.name}\n${xTitle} ${+p.x.toPrecision(4)}\n${yTitle} ${+p.y.toPrecision(4)}`)));
  }
  return frame;
}

function plots() {
  const [perception, distortion] = [$("perception").value, $("distortion").value];
  const point = (t, x, y) => ({name: t.name, method: t.method, x, y: t.means[y][0],
    ys: t.means[y][1] === null ? null : t.means[y].slice(1)});
  const quality = column(perception).title, truth = column(distortion).title;
  const theirs = data.published.flatMap(p => p.rows.map(r => ({name: `${r.method}, published`,
    published: true, x: r[perception] ?? null, y: r[distortion] ?? null})));
  const plane = data.trials.map(t => point(t, t.means[perception][0], distortion));
  $("plots").replaceChildren(
    plot("Distortion and perception", quality, truth, [...plane, ...theirs], false),
    plot("Quality and network calls", "network calls", quality,
      data.trials.map(t => point(t, t.nfe, perception)), true),
    plot("Quality and time", "seconds per picture", quality,
      data.trials.map(t => point(t, (t.means.seconds || [null])[0], perception)), true));
  $("legend").replaceChildren(...methods.map(m => make("span", {},
    make("span", {style: `color:${colour(m)}`}, "●"), m)),
    ...(theirs.some(p => p.x !== null && p.y !== null) ? [make("span", {}, "○ published")] : []));
}

// --- pictures -----------------------------------------------------------------------------------

const sources = picture => [["hr", "original"], ["lr", "input"],
  ...Object.keys(picture.cuts).map(t => [t, data.trials[t].name])];
const cut = (picture, source) => picture[source] || picture.cuts[source] || picture.hr;

function slide(percent) {
  $("slider").value = percent;
  $("over").style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
  $("line").style.left = `calc(${percent}% - 1px)`;
}

function pair() {
  const picture = shown[$("picture").value];
  const side = new Image();
  side.onload = () => {  // the input has fewer pixels: all are stretched to the original's size
    for (const id of ["under", "over"]) {
      $(id).width = side.naturalWidth * $("zoom").value;
      $(id).height = side.naturalHeight * $("zoom").value;
    }
  };
  side.src = picture.hr;
  $("under").src = cut(picture, $("right").value);
  $("over").src = cut(picture, $("left").value);
  slide($("slider").value);
}

function strip() {
  const picture = shown[$("picture").value];
  const key = $("perception").value, c = column(key);
  $("strip").replaceChildren(...sources(picture).map(([source, name]) => {
    const row = picture.rows[source];
    return make("figure", {}, make("img", {src: cut(picture, source), width: 128, alt: name,
      title: "put it on the left", onclick: () => { $("left").value = source; pair(); }}),
      make("figcaption", {}, name + (row ? `: ${c.title} ${number(row[key], c.digits)}` : "")));
  }));
}

function choosePicture() {
  const picture = shown[$("picture").value];
  const [left, right] = [$("left").value, $("right").value];
  const all = sources(picture), has = value => all.some(([v]) => v === value);
  const last = all[all.length - 1][0];
  options("left", all, has(left) ? left : last);
  options("right", all, has(right) ? right : "hr");
  pair();
  strip();
}

function cases() {
  const who = $("who").value, key = $("by").value, c = column(key);
  const known = data.pictures.filter(p => p.rows[who] && (p.rows[who][key] ?? null) !== null);
  known.sort((a, b) => (c.better || -1) * (b.rows[who][key] - a.rows[who][key]));
  const some = [...known.slice(0, 3).map(p => [p, "best"]),
    ...known.slice(3).slice(-3).map(p => [p, "worst"])];
  $("cases").replaceChildren(...some.map(([p, which]) => make("figure", {},
    ...(p.cuts && p.cuts[who] ? [make("img", {src: p.cuts[who], width: 160, alt: p.name,
      onclick: () => {
        $("picture").value = shown.indexOf(p);
        choosePicture();
        $("left").value = who;
        pair();
        $("picture").scrollIntoView();
      }})] : []),
    make("figcaption", {}, `${which}: ${p.name}, ${c.title} ${number(p.rows[who][key], c.digits)}`))));
}

function everyPicture() {
  const key = $("number").value, c = column(key);
  table($("every"), ["picture", "scale", ...data.trials.map(t => t.name)], data.pictures.map(p =>
    [text(p.name), text(p.scale), ...data.trials.map((t, i) => {
      const value = p.rows[i] ? p.rows[i][key] ?? null : null;
      return {sort: value, show: number(value, c.digits)};
    })]));
}

// --- start --------------------------------------------------------------------------------------

const metrics = data.columns.filter(c => c.metric).map(c => [c.key, c.title]);
const first = (...keys) => (keys.find(k => column(k)) || metrics[0][0]);
$("title").textContent = data.title;
document.title = `diffsr bench: ${data.title}`;
meansTable();
publishedTables();
differencesTables();
options("perception", metrics, first("lpips", "lpips_vgg", "dists"));
options("distortion", metrics, first("psnr_y", "psnr"));
options("who", data.trials.map((t, i) => [i, t.name]), data.trials.length - 1);
options("by", metrics, first("lpips", "lpips_vgg", "psnr_y"));
options("number", data.columns.map(c => [c.key, c.title]), first("lpips", "psnr_y"));
for (const id of ["perception", "distortion"]) $(id).onchange = () => { plots(); if (shown.length) strip(); };
for (const id of ["who", "by"]) $(id).onchange = cases;
$("number").onchange = everyPicture;
plots();
cases();
everyPicture();
if (shown.length) {
  options("picture", shown.map((p, i) => [i, `${p.name} x${p.scale}`]), 0);
  options("left", [["hr", ""]]);
  options("right", [["hr", ""]]);
  $("left").value = "";
  $("picture").onchange = choosePicture;
  for (const id of ["left", "right", "zoom"]) $(id).onchange = pair;
  $("slider").oninput = () => slide($("slider").value);
  const drag = event => {
    const box = $("pair").getBoundingClientRect();
    slide(Math.min(100, Math.max(0, (event.clientX - box.left) / box.width * 100)));
  };
  $("pair").onpointerdown = event => { $("pair").setPointerCapture(event.pointerId); drag(event); };
  $("pair").onpointermove = event => { if (event.buttons) drag(event); };
  choosePicture();
}
if (data.failed.length) $("failed").append(make("h3", {}, "Failed"),
  make("ul", {}, ...data.failed.map(line => make("li", {}, line))));
$("protocol").append(...data.protocol.map(([name, value]) =>
  make("tr", {}, make("td", {}, name), make("td", {}, value))));
$("glossary").append(...data.columns.flatMap(c => [make("dt", {}, c.title), make("dd", {},
  c.text + (c.better ? `; ${c.better > 0 ? "more" : "less"} is better` : ""))]));
