"use strict";
// One page, no network: script elements hold videos and labels as text; they are decoded when they are shown.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const COLORS = data.colors;
const color = (k) => COLORS[k % COLORS.length];

function bytesOf(id) {
  const text = atob($(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return bytes;
}
const urls = new Map();
function videoUrl(clip) {
  if (!clip.video) return null;
  if (!urls.has(clip.index)) urls.set(clip.index, URL.createObjectURL(new Blob([bytesOf("video-" + clip.index)], { type: "video/mp4" })));
  return urls.get(clip.index);
}
function releaseUrl(clip) {
  URL.revokeObjectURL(urls.get(clip.index));
  urls.delete(clip.index);
}
async function detailOf(clip) {
  const stream = new Blob([bytesOf("labels-" + clip.index)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The grid. A video is loaded when its card is near the window, and removed when it is not.
const byIndex = new Map(data.clips.map((clip) => [clip.index, clip]));
const cards = new Map();
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const clip = byIndex.get(Number(entry.target.dataset.index));
    const place = entry.target.querySelector(".video");
    if (entry.isIntersecting && clip.video && !place.firstElementChild) {
      const video = element("video", { muted: "", loop: "", playsinline: "", preload: "auto", "aria-hidden": "true", tabindex: "-1" });
      video.muted = true;
      video.src = videoUrl(clip);
      place.replaceChildren(video);
    } else if (!entry.isIntersecting && clip.video && place.firstElementChild) {
      const video = place.querySelector("video");
      if (video) {
        video.removeAttribute("src");  // it might load the URL that is released below
        video.load();
      }
      place.replaceChildren();
      if (!shown || shown.index !== clip.index) releaseUrl(clip);
    }
  }
}, { rootMargin: "300px" });

function describe(clip) {
  if (!clip.classes.length) return clip.labelled ? "no objects" : "labels are unreadable";
  const families = [...new Set(clip.families)];
  if (families.length === 1) return clip.classes.join(", ") + (families[0] ? " · " + families[0] : "");
  return clip.classes.map((name, k) => name + (clip.families[k] ? " (" + clip.families[k] + ")" : "")).join(", ");
}
function cardOf(clip) {
  if (cards.has(clip.index)) return cards.get(clip.index);
  const place = element("div", { class: "video", style: "--aspect:" + clip.aspect });
  if (!clip.video) place.append(clip.why || "no video");
  const text = element("span", { class: "text" }, element("b", {}, String(clip.index)), " " + describe(clip));
  if (clip.faults.length) text.append(" ", element("span", { class: "bad" }, clip.faults.map((fault) => fault[0]).join(", ")));
  const button = element("button", { type: "button", class: "card", "aria-label": "clip " + clip.index + ": " + describe(clip) }, place, text);
  const play = () => { const video = place.querySelector("video"); if (video) video.play().catch(() => {}); };
  const rewind = () => { const video = place.querySelector("video"); if (video) { video.pause(); video.currentTime = 0; } };
  button.addEventListener("pointerenter", play);
  button.addEventListener("pointerleave", rewind);
  button.addEventListener("focus", play);
  button.addEventListener("blur", rewind);
  button.addEventListener("click", () => open(clip.index));
  const card = element("li", { id: "card-" + clip.index, "data-index": clip.index }, button);
  nearby.observe(card);
  cards.set(clip.index, card);
  return card;
}

const filters = $("filters");
let listed = [];
function fill(name, values) {
  const select = filters.elements[name];
  for (const value of values) select.append(element("option", { value }, String(value)));
}
const sorted = (values) => [...new Set(values)].sort((a, b) => (typeof a === "number" ? a - b : a.localeCompare(b)));
fill("family", sorted(data.clips.flatMap((clip) => clip.families.filter(Boolean))));
fill("class", sorted(data.clips.flatMap((clip) => clip.classes)));
fill("count", sorted(data.clips.map((clip) => clip.classes.length)));
const KEYS = {
  index: (clip) => clip.index, speed: (clip) => clip.speed, visibility: (clip) => clip.visibility, size: (clip) => clip.size,
  count: (clip) => clip.classes.length, family: (clip) => clip.families.join(), class: (clip) => clip.classes.join(),
};
function list() {
  const { family, class: className, count, slow, fast, visible, sort } = Object.fromEntries(new FormData(filters));
  listed = data.clips.filter((clip) =>
    (!family || clip.families.includes(family)) && (!className || clip.classes.includes(className)) &&
    (!count || clip.classes.length === Number(count)) &&
    (slow === "" || (clip.speed !== null && clip.speed >= Number(slow))) && (fast === "" || (clip.speed !== null && clip.speed <= Number(fast))) &&
    (visible === "" || (clip.visibility !== null && 100 * clip.visibility <= Number(visible))));
  const sign = sort.startsWith("-") ? -1 : 1;
  const key = KEYS[sort.replace("-", "")];
  listed.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;  // missing values last
    return (typeof x === "string" ? x.localeCompare(y) : sign * (x - y)) || a.index - b.index;
  });
  $("grid").replaceChildren(...listed.map(cardOf));
  $("matches").textContent = listed.length + " of " + data.clips.length + " clips";
}
filters.addEventListener("input", list);
filters.addEventListener("reset", () => setTimeout(list));
filters.addEventListener("submit", (event) => event.preventDefault());
list();

$("grid").addEventListener("keydown", (event) => {
  const here = document.activeElement.closest("li");
  if (!here || !event.key.startsWith("Arrow")) return;
  const all = [...$("grid").children];
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const next = all[all.indexOf(here) + step];
  if (next) { event.preventDefault(); next.querySelector("button").focus(); }
});

// The viewer.
const OVERLAYS = [
  ["boxes", "b", "boxes"], ["amodal-boxes", "x", "amodal boxes"], ["modal", "m", "visible masks"], ["amodal", "a", "amodal masks"],
  ["tracks", "t", "tracks"], ["flow", "f", "flow colours"], ["arrows", "r", "flow arrows"], ["names", "n", "names"],
];
const HINTS = {
  boxes: "of the visible part", "amodal-boxes": "of the whole extent, dashed", tracks: "points with the trail of their last frames; a ring is an occluded point",
  flow: "to the next frame: hue is direction, saturation is speed; white does not move, grey is invalid",
};
const on = new Set(["boxes", "names"]);
const viewer = $("viewer"), canvas = $("canvas"), pen = canvas.getContext("2d");
let shown = null, detail = null, images = [], masks = null, frame = 0, timer = 0, opened = 0;

$("unavailable").textContent = data.unavailable;
for (const [name, key, title] of OVERLAYS) {
  const box = element("input", { type: "checkbox", id: "on-" + name });
  box.checked = on.has(name);
  box.addEventListener("change", () => { if (box.checked) on.add(name); else on.delete(name); draw(); });
  $("toggles").append(element("label", name in HINTS ? { title: HINTS[name] } : {}, box, title + " ", element("kbd", {}, key)));
}

// Decode COCO's run lengths: column by column, five bits per character.
function unpack(text, height, width) {
  const counts = [];
  for (let p = 0; p < text.length;) {
    let value = 0, k = 0, more = true;
    while (more) {
      const c = text.charCodeAt(p++) - 48;
      value |= (c & 31) << (5 * k++);
      more = (c & 32) !== 0;
      if (!more && c & 16) value |= -1 << (5 * k);
    }
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  const mask = new Uint8Array(height * width);
  let at = 0;
  counts.forEach((count, k) => {
    if (k % 2) for (let p = at; p < at + count; p++) mask[(p % height) * width + Math.floor(p / height)] = 1;
    at += count;
  });
  return mask;
}
async function grab(clip, count) {
  const url = videoUrl(clip);
  if (!url) return [];
  const video = element("video", { muted: "", playsinline: "", preload: "auto" });
  video.muted = true;
  video.src = url;
  await new Promise((done, failed) => { video.onloadeddata = done; video.onerror = () => failed(new Error("the video cannot be decoded")); });
  const out = [];
  for (let t = 0; t < count; t++) {
    await new Promise((done) => { video.onseeked = done; video.currentTime = (t + 0.5) / clip.fps; });
    out.push(await createImageBitmap(video));
  }
  return out;
}

async function open(index) {
  const clip = byIndex.get(index), turn = ++opened;
  if (!clip) return;
  stop();
  shown = clip; detail = null; images = []; masks = null; frame = 0;
  $("viewer-title").replaceChildren("Clip " + clip.index, element("span", { class: "soft" }, describe(clip)));
  $("problem").textContent = clip.faults.map((fault) => fault[0] + ": " + fault[1]).join("; ");
  if (!viewer.open) {
    viewer.showModal();
    $("scrub").focus();
  }
  history.replaceState(null, "", "#clip-" + index);
  const found = await detailOf(clip);
  if (turn !== opened) return;
  detail = found;
  const [height, width] = detail.size_hw;
  const scale = Math.max(1, Math.round(640 / Math.max(width, 1)));
  canvas.width = Math.max(width * scale, 16);
  canvas.height = Math.max(height * scale, 16);
  canvas.setAttribute("aria-label", "frames of clip " + clip.index + ": " + describe(clip));
  $("scrub").max = Math.max(detail.num_frames - 1, 0);
  $("command").textContent = detail.command;
  showLabels();
  draw();
  try {
    const grabbed = await grab(clip, detail.num_frames);
    if (turn === opened) images = grabbed;
  } catch (error) {
    $("problem").textContent += " " + error.message;
  }
  if (turn !== opened) return;
  draw();
  viewer.dataset.ready = String(index);
}
function showLabels() {
  const rows = detail.objects.map((item, k) => {
    const bars = item.visibility.map((value, t) => value === null
      ? `<rect class="away" x="${t}" y="0" width="1.02" height="1"/>`
      : `<rect x="${t}" y="${1 - value}" width="1.02" height="${value}" fill="${color(k)}"/>`).join("");
    const row = element("div", { class: "object" }, element("i", { style: "background:" + color(k) }), (k + 1) + " " + item.class_name);
    const known = item.visibility.filter((value) => value !== null);
    const mean = known.length ? Math.round(100 * known.reduce((a, b) => a + b) / known.length) + " % on average" : "never in the frame";
    row.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 ${detail.num_frames} 1" preserveAspectRatio="none" shape-rendering="crispEdges" role="img" aria-label="visible ${mean}">${bars}<path class="cursor"/></svg>`);
    row.lastElementChild.addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      go(Math.floor(detail.num_frames * (event.clientX - box.left) / box.width));
    });
    return row;
  });
  $("timeline").replaceChildren(...(rows.length ? rows : [element("p", { class: "soft" }, "no objects")]));
  const body = element("tbody");
  const add = (name, value) => body.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "n" }, typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value))));
  for (const [name, value] of Object.entries(detail.factors)) add(name, value);
  detail.objects.forEach((item, k) => { for (const [name, value] of Object.entries(item.factors)) add(k + 1 + " " + name, value); });
  for (const [name, value] of Object.entries(detail.background_factors)) add("background " + name, value);
  $("factors").replaceChildren(element("table", {}, body));
  for (const [name, value] of [["tracks", detail.tracks], ["flow", detail.flow], ["arrows", detail.flow]]) {
    $("on-" + name).disabled = !value;
    $("on-" + name).parentElement.classList.toggle("none", !value);
  }
}
function masksOf() {
  if (!masks) {
    const [height, width] = detail.mask_hw;
    masks = detail.objects.map((item) => {
      const modal = item.modal.map((text) => unpack(text, height, width));
      return { modal, amodal: item.amodal.map((text, t) => (text === "" ? modal[t] : unpack(text, height, width))) };
    });
  }
  return masks;
}
function paint([height, width], colorAt) {
  const sheet = new OffscreenCanvas(width, height), ink = sheet.getContext("2d"), image = ink.createImageData(width, height);
  colorAt(image.data, width, height);
  ink.putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(sheet, 0, 0, canvas.width, canvas.height);
}
// Canvas pixels per screen pixel: lines and text have the same size on every screen.
const unit = () => Math.max(1, canvas.width / Math.max(canvas.clientWidth, 1));
const rgb = (k) => [1, 3, 5].map((at) => parseInt(color(k).slice(at, at + 2), 16));
function put(pixels, p, [r, g, b], alpha) { pixels[4 * p] = r; pixels[4 * p + 1] = g; pixels[4 * p + 2] = b; pixels[4 * p + 3] = alpha; }
function drawMasks(kind, fillAlpha) {
  paint(detail.mask_hw, (pixels, width, height) => masksOf().forEach((of, k) => {
    const mask = of[kind][frame];
    for (let p = 0; p < mask.length; p++) if (mask[p]) {
      const x = p % width;
      const edge = x === 0 || x === width - 1 || p < width || p >= width * (height - 1) || !mask[p - 1] || !mask[p + 1] || !mask[p - width] || !mask[p + width];
      if (edge) put(pixels, p, rgb(k), 255); else if (fillAlpha) put(pixels, p, rgb(k), fillAlpha);
    }
  }));
}
function hue(angle, strength) {
  const channel = (n) => { const k = (n + angle / 60) % 6; return 255 * (1 - strength * Math.max(0, Math.min(k, 4 - k, 1))); };
  return [channel(5), channel(3), channel(1)];
}
// Flow is in 1/127 of the clip's longest vector, so that full colour is the same speed in every frame; -128 is invalid.
function drawFlow() {
  const field = detail.flow.fields[frame];
  if (!field) return;
  paint(detail.flow.size_hw, (pixels) => {
    for (let p = 0; p < field.length / 2; p++) {
      const dx = field[2 * p], dy = field[2 * p + 1];
      put(pixels, p, dx === -128 ? [128, 128, 128] : hue((Math.atan2(dy, dx) * 180 / Math.PI + 360) % 360, Math.min(1, Math.hypot(dx, dy) / 127)), 190);
    }
  });
}
function drawArrows() {
  const field = detail.flow.fields[frame];
  if (!field) return;
  const [height, width] = detail.flow.size_hw, gap = Math.max(1, Math.round(Math.max(height, width) / 18)), sx = canvas.width / width, sy = canvas.height / height;
  const scale = detail.flow.largest / 127 * canvas.width / detail.size_hw[1];
  for (const [style, wide] of [["#000", 4], ["#fff", 1.6]]) {
    pen.strokeStyle = style; pen.lineWidth = wide * unit(); pen.beginPath();
    for (let y = gap >> 1; y < height; y += gap) for (let x = gap >> 1; x < width; x += gap) {
      if (field[2 * (y * width + x)] === -128) continue;
      const dx = field[2 * (y * width + x)] * scale, dy = field[2 * (y * width + x) + 1] * scale, length = Math.hypot(dx, dy);
      if (!(length > 0.5)) continue;
      const x0 = (x + 0.5) * sx, y0 = (y + 0.5) * sy, head = Math.min(7, length / 2), turn = Math.atan2(dy, dx);
      pen.moveTo(x0, y0); pen.lineTo(x0 + dx, y0 + dy);
      for (const side of [-2.6, 2.6]) { pen.moveTo(x0 + dx, y0 + dy); pen.lineTo(x0 + dx + head * Math.cos(turn + side), y0 + dy + head * Math.sin(turn + side)); }
    }
    pen.stroke();
  }
}
function drawTracks() {
  const scale = canvas.width / detail.size_hw[1];
  for (const [owner, points] of detail.tracks) {
    pen.strokeStyle = pen.fillStyle = color(Math.max(owner, 0)); pen.lineWidth = 2 * unit(); pen.beginPath();
    const trail = points.slice(Math.max(0, frame - 8), frame + 1).filter(([x]) => x !== null);
    trail.forEach(([x, y], n) => { if (n) pen.lineTo(x * scale, y * scale); else pen.moveTo(x * scale, y * scale); });
    pen.stroke();
    const [x, y, visible] = points[frame];
    if (x === null) continue;
    pen.beginPath(); pen.arc(x * scale, y * scale, 4 * unit(), 0, 7);
    if (visible) { pen.fill(); pen.strokeStyle = "#000"; pen.lineWidth = unit(); }
    pen.stroke();
  }
}
function drawBoxes(kind, dashes) {
  const scale = canvas.width / detail.size_hw[1];
  pen.lineWidth = 2 * unit(); pen.setLineDash(dashes.map((length) => length * unit()));
  detail.objects.forEach((item, k) => {
    const box = item[kind][frame];
    if (!box) return;
    pen.strokeStyle = color(k);
    pen.strokeRect(box[0] * scale, box[1] * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale);
  });
  pen.setLineDash([]);
}
function drawNames() {
  const scale = canvas.width / detail.size_hw[1], u = unit(), high = 18 * u;
  pen.font = "600 " + 13 * u + "px system-ui, sans-serif"; pen.textBaseline = "middle";
  detail.objects.forEach((item, k) => {
    const box = item.boxes[frame];
    if (!box) return;
    const text = k + 1 + " " + item.class_name, wide = pen.measureText(text).width + 8 * u;
    const x = Math.max(0, Math.min(box[0] * scale, canvas.width - wide)), y = Math.max(0, box[1] * scale - high), [r, g, b] = rgb(k);
    pen.fillStyle = color(k); pen.fillRect(x, y, wide, high);
    pen.fillStyle = 0.299 * r + 0.587 * g + 0.114 * b > 110 ? "#000" : "#fff"; pen.fillText(text, x + 4 * u, y + high / 2 + u);
  });
}
function draw() {
  if (!detail) return;
  pen.imageSmoothingEnabled = true;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (images[frame]) pen.drawImage(images[frame], 0, 0, canvas.width, canvas.height);
  if (detail.flow && on.has("flow")) drawFlow();
  if (on.has("modal")) drawMasks("modal", 90);
  if (on.has("amodal")) drawMasks("amodal", 0);
  if (detail.flow && on.has("arrows")) drawArrows();
  if (detail.tracks && on.has("tracks")) drawTracks();
  if (on.has("boxes")) drawBoxes("boxes", []);
  if (on.has("amodal-boxes")) drawBoxes("amodal_boxes", [7, 5]);
  if (on.has("names")) drawNames();
  $("scrub").value = frame;
  $("frame").textContent = detail.num_frames ? frame + " / " + (detail.num_frames - 1) : "";
  for (const path of document.querySelectorAll("#timeline .cursor")) path.setAttribute("d", `M ${frame + 0.5} 0 V 1`);
  const order = detail.objects.map((item, k) => [item.depth_order[frame], k]).sort((a, b) => a[0] - b[0]);
  $("depth").replaceChildren(...order.map(([, k]) => element("span", {}, element("i", { style: "background:" + color(k) }), k + 1 + " " + detail.objects[k].class_name)));
}
function go(t) {
  if (!detail || !detail.num_frames) return;
  frame = (t + detail.num_frames) % detail.num_frames;
  draw();
}
function stop() {
  clearInterval(timer);
  timer = 0;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "play");
}
function toggle() {
  if (timer) return stop();
  timer = setInterval(() => go(frame + 1), 1000 / shown.fps);
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "pause");
}
function neighbour(by) {
  const at = listed.findIndex((clip) => clip.index === shown.index) + by;
  if (listed[at]) open(listed[at].index);
}
$("play").addEventListener("click", toggle);
$("scrub").addEventListener("input", () => { stop(); go(Number($("scrub").value)); });
$("before").addEventListener("click", () => neighbour(-1));
$("after").addEventListener("click", () => neighbour(1));
$("close").addEventListener("click", () => viewer.close());
$("copy").addEventListener("click", () => {
  // A page from disk may have no access to the clipboard; then the command is selected.
  getSelection().selectAllChildren($("command"));
  if (navigator.clipboard) navigator.clipboard.writeText($("command").textContent).then(() => { $("copy").textContent = "copied"; setTimeout(() => { $("copy").textContent = "copy"; }, 1500); }, () => {});
});
viewer.addEventListener("close", () => {
  stop();
  opened++;
  const back = shown && cards.get(shown.index);
  history.replaceState(null, "", location.pathname + location.search);
  if (back && back.isConnected) back.querySelector("button").focus();
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const kind = event.target.type, key = event.key;
  if ((key === "ArrowLeft" || key === "ArrowRight") && kind !== "range") { stop(); go(frame + (key === "ArrowRight" ? 1 : -1)); }
  else if (key === " " && kind !== "button" && kind !== "checkbox") toggle();
  else if (key === "PageDown") neighbour(1);
  else if (key === "PageUp") neighbour(-1);
  else {
    const found = OVERLAYS.find((overlay) => overlay[1] === key.toLowerCase());
    if (!found || $("on-" + found[0]).disabled) return;
    $("on-" + found[0]).click();
  }
  if (!(key === " " && (kind === "button" || kind === "checkbox"))) event.preventDefault();
});
function follow() {
  const match = location.hash.match(/^#clip-(\d+)$/);
  if (match) open(Number(match[1]));
}
addEventListener("hashchange", follow);
new ResizeObserver(draw).observe(canvas);
follow();
