// What moves in the report: the map, the pages of cameras and species, tables that sort. It asks nothing of the
// network: parts are scripts beside the page, or stand in it. Names are whatever a data set holds: text, never HTML.
(() => {
"use strict";
const body = document.body, FOLDER = body.dataset.parts;
const at = id => document.getElementById(id);
const UNKNOWN = "–";
window.camtrapParts ??= {};

// ---- elements ----
function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...inside.flat().filter(part => part !== null && part !== undefined && part !== ""));
  return made;
}
function draw(tag, attributes, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

// ---- numbers ----
const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0}), collator = new Intl.Collator("en", {numeric: true});
const count = value => value === null || value === undefined ? UNKNOWN : whole.format(value);
const decimal = (value, digits) => value === null || value === undefined ? UNKNOWN
  : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
function percent(share) {
  if (share === null || share === undefined) return UNKNOWN;
  if (share === 0 || share === 1) return share * 100 + "%";
  if (share < 0.0005) return "<0.1%";
  if (share >= 0.9995) return ">99.9%";
  return (share * 100).toFixed(1) + "%";
}
const plural = (n, one, many) => count(n) + " " + (n === 1 ? one : many || one + "s");
function when(minute) {
  if (minute === null || minute === undefined || minute < 0) return "no date";
  return new Date(minute * 60000).toISOString().slice(0, 16).replace("T", " ");
}
const span = (first, last) => first === null ? "not known" : first === last ? first : first + " to " + last;
const day = minute => minute === null || minute === undefined ? UNKNOWN : when(minute).slice(0, 10);

// ---- parts ----
const loaded = {};
function load(name) {
  loaded[name] ??= new Promise((resolve, reject) => {
    const inside = at("part-" + name);
    if (inside) return resolve(JSON.parse(inside.textContent));
    if (name in window.camtrapParts) return resolve(JSON.parse(window.camtrapParts[name]));
    const script = make("script", {src: FOLDER + "/" + name + ".js"});
    script.onload = () => resolve(JSON.parse(window.camtrapParts[name]));
    script.onerror = () => reject(new Error("The file " + FOLDER + "/" + name + ".js is missing: copy the whole folder of the report."));
    document.head.append(script);
  });
  return loaded[name];
}
function photoUrl(number) {
  const inside = at("photo-" + number);
  return inside ? "data:image/jpeg;base64," + inside.textContent : FOLDER + "/photos/" + number + ".jpg";
}

// ---- tables ----
const given = new WeakMap();  // table -> its rows, where they are not in it yet
const valueOf = text => {
  if (text === UNKNOWN || text === "") return null;
  if (!/^[<>]?-?[\d,]+(\.\d+)?%?$/.test(text)) return text.toLowerCase();
  return parseFloat(text.replace(/[<>,%]/g, ""));
};
function compare(one, other) {
  if (one === null || other === null) return one === other ? 0 : one === null ? 1 : -1;
  if (typeof one === "number" && typeof other === "number") return one - other;
  return collator.compare(one, other);
}
function say(text) { if (at("said")) at("said").textContent = text; }
async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); }
  catch {  // an old browser, or a page from disk in one that forbids it
    const area = make("textarea", {class: "unseen"});
    area.value = text;
    body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  say("Copied");
  setTimeout(() => { button.textContent = before; }, 1500);
}
// A table gets buttons in its head that sort, a field that filters, and a button that copies what is shown.
// `rows`: {cells: [text], sort: [value], make: () => tr}; without, those that the table has.
const FIRST = 200;
function enliven(table, rows) {
  const head = table.tHead && table.tHead.rows[table.tHead.rows.length - 1];
  const part = table.tBodies[0];
  if (!head || !part || table.dataset.lively) return;
  table.dataset.lively = "yes";
  rows ??= [...part.rows].map(row => ({
    cells: [...row.cells].map(cell => cell.textContent.trim().replace(/\s+/g, " ")),
    made: row}));
  rows.forEach(row => { row.sort ??= row.cells.map(valueOf); });
  if (rows.length < 2) { part.replaceChildren(...rows.map(row => row.made ?? row.make())); return; }
  let order = rows.slice(), shown = rows.length > FIRST + 50 ? FIRST : rows.length, words = [];
  const more = make("p", {class: "more"});
  const found = make("span", {class: "muted", "aria-live": "polite"});
  function show() {
    const wanted = order.filter(row => words.every(word => row.cells.some(cell => cell.toLowerCase().includes(word))));
    part.replaceChildren(...wanted.slice(0, shown).map(row => row.made ??= row.make()));
    found.textContent = words.length ? count(wanted.length) + " of " + count(rows.length) : "";
    more.replaceChildren(...(wanted.length > shown ? [make("button", {type: "button", onclick: () => { shown += 1000; show(); }},
      "Show more: " + count(Math.min(1000, wanted.length - shown)) + " of " + count(wanted.length - shown))] : []));
    return wanted;
  }
  [...head.cells].forEach((cell, column) => {
    if (cell.colSpan > 1 || cell.classList.contains("bar") || !cell.textContent.trim()) return;
    const button = make("button", {type: "button", class: "sort"});
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const numbers = rows.some(row => typeof row.sort[column] === "number");
      const now = cell.getAttribute("aria-sort");
      const down = now ? now === "ascending" : numbers;
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      order = rows.slice().sort((a, b) => {
        const one = a.sort[column], other = b.sort[column];
        return one === null || other === null ? compare(one, other) : sign * compare(one, other);
      });
      show();
    });
  });
  const tools = make("div", {class: "tools script"});
  if (rows.length > 8) {
    const name = (table.caption ? table.caption.textContent.trim() : "table");
    tools.append(make("input", {type: "search", placeholder: "Filter", "aria-label": "Filter: " + name, oninput: event => {
      words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      show();
    }}), found);
  }
  tools.append(make("button", {type: "button", onclick: event => {
    const lines = [[...head.cells].map(cell => cell.textContent.trim().replace(/\s+/g, " ")), ...show().map(row => row.cells)];
    copy(lines.map(line => line.join("\t")).join("\n"), event.target);
  }}, "Copy table"));
  const around = table.closest(".scroll") || table;
  around.before(tools);
  around.after(more);
  if (rows.length > part.rows.length || !rows[0].made) show();
}
// A region that scrolls says so, as long as there is more of it.
function hint(region) {
  const look = () => {
    const hidden = region.scrollWidth - region.clientWidth > 2 && region.scrollLeft + region.clientWidth < region.scrollWidth - 2;
    region.classList.toggle("cut", hidden);
    const scrolls = region.scrollWidth - region.clientWidth > 2 || region.scrollHeight - region.clientHeight > 2;
    if (scrolls) region.tabIndex = 0; else region.removeAttribute("tabindex");
  };
  region.addEventListener("scroll", look, {passive: true});
  new ResizeObserver(look).observe(region);
  look();
}
function settle(root) {
  root.querySelectorAll("table.sorts").forEach(table => { if (table.id !== "cameras-table") enliven(table, given.get(table)); });
  root.querySelectorAll(".scroll").forEach(hint);
  root.querySelectorAll("button.copy").forEach(button => {
    button.hidden = false;
    button.onclick = () => copy(button.dataset.copy, button);
  });
  root.querySelectorAll(".photo .frame").forEach(frame => {
    if (frame.dataset.opens) return;
    frame.dataset.opens = "yes";
    frame.tabIndex = 0;
    frame.setAttribute("role", "button");
    const image = frame.querySelector("img");
    frame.setAttribute("aria-label", "Enlarge: " + image.alt);
  });
}
function scrolling(label, ...inside) {
  return make("div", {class: "scroll", role: "region", "aria-label": label, tabindex: 0}, ...inside);
}
function tableOf(caption, columns, rows) {
  const head = make("tr", {}, columns.map(([name, kind]) => make("th", {scope: "col", class: kind || null}, name)));
  const line = cells => make("tr", {}, cells.map((cell, column) => {
    const kind = columns[column][1] || null;
    const made = make(column ? "td" : "th", column ? {class: kind} : {scope: "row", class: kind});
    if (cell && cell.nodeType) made.append(cell); else made.textContent = cell;
    return made;
  }));
  const table = make("table", {class: "sorts"}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}));
  given.set(table, rows.map(cells => {
    const texts = cells.map(cell => cell && cell.nodeType ? cell.textContent : String(cell));
    return {cells: texts, sort: texts.map(valueOf), make: () => line(cells)};
  }));
  return scrolling(caption, table);
}
function command(text) {
  return make("span", {class: "command"}, make("code", {}, text.split(" ").flatMap((word, at) => [at ? " " : "", make("span", {}, word)])), make("button", {type: "button", class: "copy", "data-copy": text, hidden: true}, "Copy"));
}
const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\"'\"'") + "'";

// ---- what is known ----
let byName = null;  // numbers of the cameras, for steps from one to the next
let index = null, cameraOf = new Map(), labelOf = new Map();
const LABEL = 0, COMMON = 1, RED = 2, RANK = 3, KIND = 4, EVENTS = 5, ANIMALS = 6, IMAGES = 7, CAMERAS = 8, SURE = 9;
const RED_LIST = {EX: "extinct", EW: "extinct in the wild", CR: "critically endangered", EN: "endangered", VU: "vulnerable",
  NT: "near threatened", LC: "least concern", DD: "data deficient", NE: "not evaluated"};
const cameraPath = number => "#/camera/" + encodeURIComponent(index.cameras.name[number]);
const labelPath = number => "#/species/" + encodeURIComponent(index.labels[number][LABEL]);
function named(number) {
  const label = index.labels[number];
  if (!label[COMMON]) return make("span", {}, label[LABEL]);
  return make("span", {}, label[COMMON] + " ", make("i", {class: "muted"}, label[LABEL]));
}
const shortName = number => index.labels[number][COMMON] || index.labels[number][LABEL];
const cameraLink = number => number < 0 ? UNKNOWN : make("a", {href: cameraPath(number)}, index.cameras.name[number]);
const labelLink = number => make("a", {href: labelPath(number)}, named(number));

// ---- photos ----
// [number, width, height, file, camera, minute, boxes]
const viewer = at("viewer");
let row = [], shownAt = 0;
function framed(photo, alt) {
  const [number, width, height, , , , boxes] = photo;
  const frame = make("span", {class: "frame"});
  frame.style.setProperty("--w", width);
  frame.style.setProperty("--h", height);
  frame.append(make("img", {src: photoUrl(number), alt, width, height, loading: "lazy"}));
  for (const [x, y, w, h, category, sure, label] of boxes) {
    const box = make("span", {class: "box", title: (label || category) + " " + percent(sure)});
    Object.assign(box.style, {left: 100 * x + "%", top: 100 * y + "%", width: 100 * w + "%", height: 100 * h + "%"});
    frame.append(box);
  }
  return frame;
}
function figure(photo, ...caption) {
  const [, , , file, camera, minute] = photo;
  return make("figure", {class: "photo"}, framed(photo, "Photo " + file),
    make("figcaption", {}, ...caption, make("span", {class: "muted"}, (camera ?? "unknown location") + " · " + when(minute)), make("span", {class: "muted path"}, file)));
}
function openViewer(frame) {
  row = [...frame.closest("section, main, .strip, body").querySelectorAll(".frame")].filter(one => one.offsetParent);
  shownAt = row.indexOf(frame);
  showPhoto();
  if (!viewer.open) viewer.showModal();
}
function showPhoto() {
  const frame = row[shownAt], large = frame.cloneNode(true);
  ["role", "tabindex", "aria-label", "data-opens"].forEach(name => large.removeAttribute(name));
  const caption = frame.closest("figure")?.querySelector("figcaption")?.cloneNode(true);
  caption?.querySelectorAll("button, .command").forEach(part => part.remove());
  const step = by => { shownAt = (shownAt + by + row.length) % row.length; showPhoto(); };
  viewer.replaceChildren(large, caption ? make("p", {}, ...caption.childNodes) : make("p", {}, frame.title || ""),
    make("div", {class: "tools"},
      make("button", {type: "button", onclick: () => step(-1)}, "← Previous"),
      make("span", {class: "muted"}, (shownAt + 1) + " of " + row.length),
      make("button", {type: "button", onclick: () => step(1)}, "Next →"),
      make("button", {type: "button", onclick: () => viewer.classList.toggle("bare")}, "Boxes"),
      make("button", {type: "button", onclick: () => viewer.close()}, "Close")));
}
if (viewer) {
  viewer.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) { shownAt = (shownAt + by + row.length) % row.length; showPhoto(); event.preventDefault(); }
  });
  viewer.addEventListener("click", event => { if (event.target === viewer) viewer.close(); });
  document.addEventListener("click", event => {
    const frame = event.target.closest?.(".frame[data-opens]");
    if (frame && !viewer.contains(frame)) openViewer(frame);
  });
  document.addEventListener("keydown", event => {
    if ((event.key === "Enter" || event.key === " ") && event.target.matches?.(".frame[data-opens]")) {
      event.preventDefault();
      openViewer(event.target);
    }
  });
}

// ---- charts ----
function columns(title, names, values, {ticks, x, height = 150} = {}) {
  const W = 460, H = height, L = 40, R = 8, T = 10, B = 34, top = Math.max(1, ...values);
  const wide = (W - L - R) / values.length, y = value => T + (H - T - B) * (1 - value / top);
  const most = values.indexOf(Math.max(...values));
  const svg = draw("svg", {viewBox: `0 0 ${W} ${H}`, role: "img"},
    draw("title", {}, title), draw("desc", {}, values.some(Boolean) ? `Most in ${names[most]}: ${count(values[most])}.` : "None."));
  for (const value of top > 1 ? [0, Math.round(top / 2), top] : [0, 1]) {
    svg.append(draw("line", {class: "grid", x1: L, x2: W - R, y1: y(value), y2: y(value)}),
      draw("text", {class: "tick end", x: L - 5, y: y(value) + 3.5}, count(value)));
  }
  values.forEach((value, number) => {
    if (!value) return;
    svg.append(draw("rect", {class: "column", x: (L + number * wide + wide * .06).toFixed(1), y: y(value).toFixed(1),
      width: (wide * .88).toFixed(1), height: Math.max(H - B - y(value), .5).toFixed(1)}, draw("title", {}, names[number] + ": " + count(value))));
  });
  svg.append(draw("line", {class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B}));
  const every = Math.max(1, Math.ceil(names.length * 74 / (W - L - R)));
  (ticks || names.map((name, number) => [number + .5, name]).filter((_, number) => number % every === 0)).forEach(([value, name]) =>
    svg.append(draw("text", {class: "tick middle", x: L + value * wide, y: H - B + 14}, name)));
  if (x) svg.append(draw("text", {class: "name middle", x: (L + W - R) / 2, y: H - 4}, x));
  return svg;
}
function hoursChart(hours, curve) {
  const names = hours.map((_, hour) => String(hour).padStart(2, "0") + ":00 to " + String(hour + 1).padStart(2, "0") + ":00");
  const svg = columns("Events by hour of the day", names, hours, {ticks: [0, 6, 12, 18, 24].map(hour => [hour, String(hour)]), x: "hour, camera time"});
  if (curve && curve.length) {
    const W = 460, H = 150, L = 40, R = 8, T = 10, B = 34, n = hours.reduce((a, b) => a + b, 0), top = Math.max(1, ...hours);
    const points = key => curve.filter(p => p[key] !== null).map(p => [L + (W - L - R) * p[0] / 24, T + (H - T - B) * (1 - Math.min(1, p[key] * n / top))]);
    const low = points(2), high = points(3);
    if (low.length && high.length) svg.append(draw("path", {class: "band", d: "M" + high.map(p => p.map(v => v.toFixed(1)).join(",")).join("L") + "L" + low.reverse().map(p => p.map(v => v.toFixed(1)).join(",")).join("L") + "Z"}));
    svg.append(draw("polyline", {class: "line c2", points: points(1).map(p => p.map(v => v.toFixed(1)).join(",")).join(" ")}));
  }
  return svg;
}
function overChart(over) {
  const periods = index.periods, values = periods.names.map(() => 0);
  for (const [number, n] of over) values[number] = n;
  return columns("Events by " + periods.unit, periods.names, values, {x: periods.unit + ", camera time"});
}
function charts(page) {
  const made = make("div", {class: "charts"});
  if (page.hours && page.hours.some(Boolean)) made.append(make("figure", {}, make("figcaption", {}, "Over the day",
    page.curve ? make("span", {class: "muted"}, " line: estimated activity with its 95% interval") : ""), hoursChart(page.hours, page.curve)));
  if (page.over && page.over.length && index.periods) made.append(make("figure", {}, make("figcaption", {}, "Over the study period"), overChart(page.over)));
  return made.childElementCount ? made : make("p", {class: "muted"}, "No event has a date and a time.");
}

// ---- the map ----
const SHAPES = ["", "-.89,-.89 .89,-.89 .89,.89 -.89,.89", "0,-1.4 1.3,.9 -1.3,.9", "0,-1.3 1.3,0 0,1.3 -1.3,0", "0,1.4 1.3,-.9 -1.3,-.9",
  "-.45,-1.2 .45,-1.2 .45,-.45 1.2,-.45 1.2,.45 .45,.45 .45,1.2 -.45,1.2 -.45,.45 -1.2,.45 -1.2,-.45 -.45,-.45"];
function mark(look, r) {
  const side = 2 * Math.ceil(1.4 * r + 2), svg = draw("svg", {width: side, height: side, viewBox: `${-side / 2} ${-side / 2} ${side} ${side}`, "aria-hidden": "true"});
  const kind = typeof look === "number" ? "mark c" + (look + 1) : "mark " + look;
  if (typeof look === "number" && SHAPES[look]) {
    svg.append(draw("polygon", {class: kind, points: SHAPES[look], transform: `scale(${r})`, "vector-effect": "non-scaling-stroke"}));
  } else svg.append(draw("circle", {class: kind, r}));
  return [svg, side];
}
const MOST_MARKS = 250, CELL = 44;
// `cameras`: [number, events]; `lookOf(number)`: a shape, "other" or "hollow"
function makeMap(box, cameras, lookOf, textOf) {
  const L = window.L;
  const placed = cameras.filter(([number]) => index.cameras.lat[number] !== null && index.cameras.lon[number] !== null);
  if (!L || !placed.length) return null;
  const map = L.map(box, {zoomSnap: .5, minZoom: 1, maxZoom: 17, worldCopyJump: true, scrollWheelZoom: false, zoomAnimation: false, fadeAnimation: false, markerZoomAnimation: false});
  map.attributionControl.setPrefix("Leaflet");
  map.on("focus click", () => map.scrollWheelZoom.enable());
  map.on("blur", () => map.scrollWheelZoom.disable());
  L.control.scale({imperial: false}).addTo(map);
  const bounds = L.latLngBounds(placed.map(([number]) => [index.cameras.lat[number], index.cameras.lon[number]]));
  map.fitBounds(bounds.pad(.15), {maxZoom: 12, animate: false});
  background(map);
  const layer = L.layerGroup().addTo(map);
  const most = placed.reduce((most, [, n]) => Math.max(most, n), 1);
  const radius = n => 4 + 9 * Math.sqrt(n / most);
  function redraw() {
    layer.clearLayers();
    const view = map.getBounds().pad(.1), cells = new Map();
    const seen = placed.filter(([number]) => view.contains([index.cameras.lat[number], index.cameras.lon[number]]));
    const join = seen.length > MOST_MARKS;
    for (const entry of seen) {
      const lat = index.cameras.lat[entry[0]], lon = index.cameras.lon[entry[0]], p = map.project([lat, lon]);
      const key = join ? Math.floor(p.x / CELL) + " " + Math.floor(p.y / CELL) : lat + " " + lon;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(entry);
    }
    for (const cell of cells.values()) {
      const n = cell.reduce((sum, [, events]) => sum + events, 0);
      const lats = cell.map(([number]) => index.cameras.lat[number]), lons = cell.map(([number]) => index.cameras.lon[number]);
      const point = [lats.reduce((a, b) => a + b) / cell.length, lons.reduce((a, b) => a + b) / cell.length];
      const one = cell.length === 1, number = cell[0][0];
      const [svg, side] = mark(one ? lookOf(number) : "many", one ? radius(cell[0][1]) : 13);
      if (!one) svg.append(draw("text", {class: "middle many-text", y: 4}, cell.length > 999 ? Math.round(cell.length / 1000) + "k" : cell.length));
      const text = one ? textOf(cell[0]) : plural(cell.length, "camera") + ", " + plural(n, "event");
      const made = L.marker(point, {icon: L.divIcon({html: svg, className: "pin", iconSize: [side, side]}), keyboard: true});
      made.bindTooltip(document.createTextNode(text).textContent.replace(/[&<>]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"}[c])), {direction: "top"});
      made.on("click keypress", event => {
        if (event.type === "keypress" && event.originalEvent.key !== "Enter") return;
        if (one) { location.hash = cameraPath(number); return; }
        const spread = L.latLngBounds(cell.map(([other]) => [index.cameras.lat[other], index.cameras.lon[other]]));
        if (map.getZoom() < 16 && !spread.getNorthEast().equals(spread.getSouthWest())) { map.fitBounds(spread.pad(.2), {maxZoom: 17}); return; }
        made.unbindPopup().bindPopup(make("div", {class: "popup"}, make("p", {}, plural(cell.length, "camera") + " at this place" + (index.blur ? ", rounded to a grid of " + index.blur + " km" : "")),
          make("ul", {}, cell.slice(0, 200).map(([other, events]) => make("li", {}, cameraLink(other), " ", make("span", {class: "muted"}, plural(events, "event")))))), {maxHeight: 220}).openPopup();
      });
      made.on("add", () => {
        const element = made.getElement();
        element.setAttribute("role", "button");
        element.setAttribute("aria-label", text);
      });
      layer.addLayer(made);
    }
    names(map, layer, [...cells.values()].filter(cell => cell.length === 1).map(cell => cell[0]), radius);
    box.dataset.marks = cells.size;
  }
  map.on("moveend zoomend resize", redraw);
  redraw();
  return map;
}
// Names of cameras, of those with the most events first, where they cover nothing.
function names(map, layer, cameras, radius) {
  const taken = cameras.map(([number, n]) => {
    const p = map.latLngToContainerPoint([index.cameras.lat[number], index.cameras.lon[number]]), r = radius(n);
    return [p.x - r, p.y - r, p.x + r, p.y + r];
  });
  let left = 60;
  for (const [number, n] of cameras.slice().sort((a, b) => b[1] - a[1]).slice(0, 200)) {
    const name = index.cameras.name[number], text = name.length > 22 ? name.slice(0, 21) + "…" : name;
    const p = map.latLngToContainerPoint([index.cameras.lat[number], index.cameras.lon[number]]), wide = text.length * 6.6 + 6, r = radius(n) + 3;
    const box = [p.x + r, p.y - 8, p.x + r + wide, p.y + 8];
    if (!left || taken.some(other => other[0] < box[2] && other[2] > box[0] && other[1] < box[3] && other[3] > box[1])) continue;
    taken.push(box);
    left -= 1;
    layer.addLayer(window.L.marker([index.cameras.lat[number], index.cameras.lon[number]], {interactive: false, keyboard: false,
      icon: window.L.divIcon({html: make("span", {}, text), className: "pin-name", iconSize: [wide, 16], iconAnchor: [-r, 8]})}));
  }
}
async function background(map) {
  const L = window.L, kind = body.dataset.map, tiles = body.dataset.tiles;
  if (kind === "tiles") {
    L.tileLayer(tiles, {maxZoom: 19, attribution: new URL(tiles.replace("{s}", "a")).host}).addTo(map);
    return;
  }
  if (kind === "archive") {
    const archive = new window.pmtiles.PMTiles(tiles || new Inside(await load("tiles")));
    const header = await archive.getHeader();
    const options = {maxNativeZoom: header.maxZoom, maxZoom: 19, attribution: "tiles of the job"};
    if (header.tileType === 1) window.protomapsL.leafletLayer({url: archive, flavor: dark.matches ? "dark" : "light", lang: "en", ...options}).addTo(map);
    else window.pmtiles.leafletRasterLayer(archive, options).addTo(map);
    return;
  }
  const world = await load("world");
  L.geoJSON(window.topojson.feature(world, world.objects.countries), {interactive: false, style: {className: "land", weight: 1}}).addTo(map).bringToBack();
  map.attributionControl.addAttribution("Natural Earth");
}
const dark = window.matchMedia("(prefers-color-scheme: dark)");
// An archive of tiles that came with the report.
class Inside {
  constructor(text) { this.bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0)); }
  getKey() { return "inside"; }
  async getBytes(offset, length) { return {data: this.bytes.slice(offset, offset + length).buffer}; }
}
function textOfCamera([number, events]) {
  const top = index.cameras.top[number].map(([label, n]) => shortName(label) + " " + count(n)).join(", ");
  return index.cameras.name[number] + ": " + plural(events, "event") + (top ? "; " + top : "");
}
let mainMap = null;
function mapOfAll(only) {
  const box = at("map-all");
  if (!box) return;
  mainMap?.remove();
  box.hidden = false;
  const all = index.cameras.name.map((_, number) => [number, index.cameras.events[number]]);
  const topOf = number => index.cameras.top[number].find(([label]) => index.labels[label][KIND] === "species")?.[0];
  const places = new Map();
  for (const [number] of all) if (index.cameras.lat[number] !== null && topOf(number) !== undefined) places.set(topOf(number), (places.get(topOf(number)) || 0) + 1);
  const order = [...places].sort((a, b) => b[1] - a[1]).map(([label]) => label);
  const looks = new Map(order.slice(0, SHAPES.length).map((label, number) => [label, number]));
  const lookOf = number => topOf(number) === undefined ? "hollow" : looks.has(topOf(number)) ? looks.get(topOf(number)) : "other";
  const legend = at("map-legend");
  if (only === undefined || only === null) {
    mainMap = makeMap(box, all, lookOf, textOfCamera);
    legend.replaceChildren(...[...looks].map(([label, look]) => make("span", {}, mark(look, 6)[0], " ", named(label))));
    if (order.length > looks.size) legend.append(make("span", {}, mark("other", 6)[0], " another species"));
    legend.append(make("span", {}, mark("hollow", 6)[0], " no species seen"));
    return;
  }
  load("s" + index.parts.s[only]).then(part => {
    const page = part[only];
    mainMap = makeMap(box, page.cameras.map(([number, n]) => [number, n]), () => 0, ([number, n]) => index.cameras.name[number] + ": " + plural(n, "event"));
    box.hidden = mainMap === null;
    legend.replaceChildren(make("span", {}, mark(0, 6)[0], " ", named(only), mainMap ? " " : ": no camera that saw it has known coordinates; ", make("a", {href: labelPath(only)}, "its page")));
  });
}

// ---- pages ----
const card = entries => make("dl", {class: "card"}, entries.filter(([, value]) => value !== null && value !== undefined).map(([name, ...value]) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value))));
function steps(list, number, path, nameOf, back) {
  const before = list[number - 1], after = list[number + 1];
  return make("nav", {class: "steps", "aria-label": "Steps"},
    make("a", {href: back[1]}, "← " + back[0]),
    before === undefined ? "" : make("a", {href: path(before), rel: "prev"}, "‹ " + nameOf(before)),
    after === undefined ? "" : make("a", {href: path(after), rel: "next"}, nameOf(after) + " ›"));
}
function photoSection(title, text, photos, withCamera) {
  if (!photos || !photos.length) return "";
  return make("section", {}, make("h2", {}, title), make("p", {}, text), make("div", {class: "photos"}, photos.map(([...photo]) => {
    const [label, sure, human] = photo.slice(7);
    return figure(photo.slice(0, 7), make("span", {}, make("b", {}, named(label)), ", " + (human ? "said by a person" : percent(sure))));
  })));
}
function strips(events, head) {
  const some = events.filter(event => event[7 + head]);
  if (!some.length) return "";
  return make("div", {class: "events"}, some.map(event => {
    const [minute, label, images, animals, sure, human] = event.slice(head), frames = event[7 + head];
    return make("div", {class: frames.length === 1 ? "event one" : "event"},
      make("p", {}, make("b", {}, when(minute)), " ", labelLink(label), " ", make("span", {class: "muted"},
        plural(images, "image") + ", " + plural(animals, "animal") + ", " + (human ? "said by a person" : percent(sure)) + (frames.length < images ? "; " + frames.length + " shown" : ""))),
      make("div", {class: "scroll strip", role: "region", "aria-label": "Frames of the event of " + when(minute), tabindex: 0}, frames.map(photo => figure(photo))));
  }));
}
async function cameraPage(number) {
  const cameras = index.cameras, name = cameras.name[number];
  const page = (await load("c" + index.parts.c[number]))[number];
  const value = key => cameras[key][number];
  byName ??= cameras.name.map((_, other) => other).sort((a, b) => compare(cameras.name[a], cameras.name[b]));
  const order = byName;
  const where = value("lat") === null ? "not known" : value("lat").toFixed(4) + ", " + value("lon").toFixed(4) + (page.grid ? " (rounded to a grid of " + page.grid + " km)" : "");
  const made = [steps(order, order.indexOf(number), cameraPath, other => cameras.name[other], ["All cameras", "#cameras"]),
    make("p", {class: "kind"}, "Camera"), make("h1", {}, name),
    card([["First to last image", span(value("first"), value("last"))], ["Camera days", decimal(value("days"), 1), make("span", {class: "muted"}, page.source ? " from " + page.source : "")],
      ["Images", count(value("images"))], ["Usable", count(value("usable"))], ["Empty", count(value("empty"))],
      ["Events", count(value("events"))], ["Uncertain events", count(value("uncertain"))], ["Species", count(value("species"))],
      ["Events per 100 days", decimal(value("rate"), 2)], ["Place (latitude, longitude)", where]])];
  if (!page.events) made.push(make("p", {}, value("images") ? "No event: no dated image of this camera is labelled as an animal." : "No image of this camera is in the data set."));
  else {
    if (value("uncertain")) made.push(make("p", {class: "note"}, plural(value("uncertain"), "event") + " here " + (value("uncertain") === 1 ? "is" : "are") + " uncertain. ", command("camtrap review " + quoted(index.job) + " --camera " + quoted(name))));
    made.push(photoSection("To look at", "Events here that the model is least sure of, and that nobody has checked.", page.look),
      make("section", {}, make("h2", {}, "Species"), tableOf("Species at this camera", [["Species"], ["Events", "n"], ["Animals", "n"], ["Mean confidence", "n"]],
        page.labels.map(([label, n, animals, sure]) => [labelLink(label), count(n), count(animals), percent(sure)]))),
      make("section", {}, make("h2", {}, "Activity"), charts(page)),
      photoSection("Best photos", "The surest events here.", page.best));
    const listed = page.events.length < page.n_events ? " " + count(page.events.length) + " of " + count(page.n_events) + " are listed: those with photos, and the least sure ones." : "";
    made.push(make("section", {}, make("h2", {}, "Events"), make("p", {}, "An event is an independent sighting." + listed), strips(page.events, 0),
      tableOf("Events of this camera", [["Start", "date"], ["Label"], ["Images", "n"], ["Animals", "n"], ["Confidence", "n"], ["By"], ["Best image", "path"]],
        page.events.map(([minute, label, images, animals, sure, human, file]) => [when(minute), labelLink(label), count(images), count(animals), percent(sure), human ? "person" : "model", page.prefix + file]))));
  }
  if (page.deployments.length) made.push(make("section", {}, make("h2", {}, "Deployments"), tableOf("Deployments", [["Deployment"], ["Camera"], ["Start", "date"], ["End", "date"], ["Days", "n"], ["Days out", "n"], ["Known from"], ["What looks wrong", "text"]],
    page.deployments.map(([deployment, camera, start, end, days, out, source, checks]) => [deployment ?? UNKNOWN, camera ?? UNKNOWN, day(start), day(end), decimal(days, 1), decimal(out, 1), source ?? UNKNOWN, checks.join("; ")]))));
  return [name, made];
}
async function speciesPage(number) {
  const label = index.labels[number], page = (await load("s" + index.parts.s[number]))[number];
  const order = index.labels.map((_, other) => other);
  const title = label[COMMON] ? [label[COMMON] + " ", make("i", {class: "muted"}, label[LABEL])] : [label[LABEL]];
  const rate = page.rate, occupancy = page.occupancy;
  const made = [steps(order, number, labelPath, shortName, ["All species", "#species"]),
    make("p", {class: "kind"}, label[KIND] === "group" ? label[RANK] : label[KIND] === "people" ? "People and vehicles" : label[KIND] === "uncertain" ? "Events that are uncertain" : "Species"), make("h1", {}, ...title),
    card([["IUCN Red List", label[RED] ? (RED_LIST[label[RED]] ? RED_LIST[label[RED]] + " (" + label[RED] + ")" : label[RED]) : null], ["Events", count(label[EVENTS])], ["Animals", count(label[ANIMALS])], ["Images", count(label[IMAGES])],
      ["Cameras", count(label[CAMERAS])], ["First to last event", page.first === null ? span(null) : span(day(page.first), day(page.last))], ["Mean confidence", percent(label[SURE])],
      ["Events that people labelled", page.n_human ? count(page.n_human) : null],
      ["Events per 100 camera days", rate && rate[0] !== null ? decimal(rate[0], 2) + (rate[1] === null ? "" : " (95% interval " + decimal(rate[1], 2) + " to " + decimal(rate[2], 2) + ")") : null, make("span", {class: "muted"}, page.rate_source ? " days from " + page.rate_source : "")],
      ["Part of the stations where it was seen", rate && rate[3] !== null ? percent(rate[3]) : null],
      ["Occupancy, seen or not", occupancy && occupancy[0] !== null ? percent(occupancy[0]) + (occupancy[1] === null ? "" : occupancy[1] < .01 && occupancy[2] > .99 ? " (nothing to estimate it from)" : " (95% interval " + percent(occupancy[1]) + " to " + percent(occupancy[2]) + ")") : occupancy && occupancy[4] ? occupancy[4] : null]])];
  const box = make("div", {class: "map", role: "application", "aria-label": "Map of the cameras that saw it"});
  const isPlaced = page.cameras.some(([camera]) => index.cameras.lat[camera] !== null);
  if (body.dataset.map) made.push(make("section", {}, make("h2", {}, "Where it was seen"), isPlaced ? box : make("p", {}, "No camera that saw it has known coordinates.")));
  if (label[KIND] !== "uncertain" && label[KIND] !== "group") made.push(make("section", {}, make("h2", {}, "Activity"), charts(page)));
  made.push(photoSection("Best photos", "The surest events.", page.best));
  made.push(photoSection("To look at", "Events that the model is least sure of, and that nobody has checked.", page.look));
  if (page.doubtful.length) made.push(make("section", {}, make("h2", {}, "The least sure events"), make("p", {}, "Nobody has checked them. ", command("camtrap review " + quoted(index.job) + " --label " + quoted(label[LABEL]) + " --order least-sure")),
    strips(page.doubtful.slice(0, 40), 1),
    tableOf("Events, the least sure first", [["Camera"], ["Start", "date"], ["Images", "n"], ["Confidence", "n"], ["Best image", "path"]],
      page.doubtful.map(([camera, minute, , images, , sure, , file]) => [cameraLink(camera), when(minute), count(images), percent(sure), file]))));
  made.push(make("section", {}, make("h2", {}, "Cameras"), tableOf("Cameras that saw it", [["Camera"], ["Events", "n"], ["Mean confidence", "n"]], page.cameras.map(([camera, n, sure]) => [cameraLink(camera), count(n), percent(sure)]))));
  return [label[COMMON] || label[LABEL], made, () => {
    if (body.dataset.map && isPlaced) makeMap(box, page.cameras.map(([camera, n]) => [camera, n]), () => 0, ([camera, n]) => index.cameras.name[camera] + ": " + plural(n, "event"));
  }];
}

// ---- which page ----
const main = at("main"), view = at("view"), summary = at("summary"), title = document.title;
let kept = 0;
async function route() {
  const [, kind, rest] = location.hash.match(/^#\/(\w+)\/?(.*)$/) || [];
  const isMain = !kind;
  if (!main.hidden && !isMain) kept = scrollY;
  const wasMain = !main.hidden;
  document.querySelector("body > header").hidden = !isMain;
  main.hidden = !isMain;
  view.hidden = kind !== "camera" && kind !== "species";
  summary.hidden = kind !== "summary";
  body.dataset.page = kind || "main";
  document.title = title;
  if (isMain) {
    view.replaceChildren();
    if (!wasMain) {
      mainMap?.invalidateSize();
      const target = location.hash.length > 1 && at(decodeURIComponent(location.hash.slice(1)));
      if (target) target.scrollIntoView(); else scrollTo(0, kept);
    }
    return;
  }
  scrollTo(0, 0);
  if (kind === "summary") { summary.focus({preventScroll: true}); return; }
  let name = "";
  try { name = decodeURIComponent(rest); } catch { name = rest; }
  const number = (kind === "camera" ? cameraOf : labelOf).get(name);
  try {
    if (number === undefined) throw new Error("There is no " + kind + " of this name: " + name);
    const [heading, made, after] = await (kind === "camera" ? cameraPage : speciesPage)(number);
    if (location.hash !== "#/" + kind + "/" + rest) return;  // gone on meanwhile
    document.title = heading + " – " + title;
    view.replaceChildren(...made.filter(Boolean));
    settle(view);
    after?.();
    view.dataset.ready = name;
    say(heading);
  } catch (problem) {
    view.replaceChildren(make("p", {}, make("a", {href: "#"}, "← The whole report")), make("p", {class: "note"}, problem.message));
  }
  view.focus({preventScroll: true});
}

// ---- begin ----
function cameraRows() {
  const c = index.cameras, table = at("cameras-table");
  if (!table) return;
  const hasDays = c.days.some(value => value !== null);
  const rows = c.name.map((name, number) => {
    const seen = () => c.top[number].map(([label, n]) => shortName(label) + " " + count(n)).join(", ");
    const values = [c.images[number], c.usable[number], c.empty[number], c.events[number], c.uncertain[number], c.species[number]];
    const effort = hasDays ? [c.days[number], c.rate[number]] : [], n = values.length + effort.length;
    return {  // text is made of those rows alone that show, or are searched: there may be a hundred thousand
      sort: [name, ...values, ...effort, c.top[number][0]?.[1] ?? null, c.first[number], c.last[number]],
      get cells() {
        return [name, ...values.map(count), ...effort.map((value, at) => decimal(value, at)), seen() || UNKNOWN, c.first[number] ?? UNKNOWN, c.last[number] ?? UNKNOWN];
      },
      make() {
        return make("tr", {}, make("th", {scope: "row"}, cameraLink(number)), this.cells.slice(1).map((cell, column) =>
          make("td", {class: column < n ? "n" : column === n ? "species" : "date"}, cell)));
      }};
  });
  enliven(table, rows);
  at("cameras-left-out")?.remove();
}
function begin() {
  body.classList.add("lively");
  if (window.camtrapParts.index) {
    index = JSON.parse(window.camtrapParts.index);
    index.cameras.name.forEach((name, number) => cameraOf.set(name, number));
    index.labels.forEach((label, number) => labelOf.set(label[LABEL], number));
    cameraRows();
    const choose = at("map-species");
    if (choose) {
      index.labels.forEach((label, number) => choose.append(make("option", {value: number}, shortName(number) + " (" + count(label[EVENTS]) + ")")));
      choose.addEventListener("change", () => mapOfAll(choose.value === "" ? null : Number(choose.value)));
    }
    window.addEventListener("hashchange", route);
    at("print")?.addEventListener("click", () => window.print());
  }
  settle(document);
  if (index) {
    route();
    if (!main.hidden) mapOfAll();
    else window.addEventListener("hashchange", function once() { if (!main.hidden) { window.removeEventListener("hashchange", once); mapOfAll(); } });
  }
  body.dataset.ready = "yes";
}
begin();
})();
