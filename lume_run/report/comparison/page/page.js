"use strict";
// The tables of the page. All text comes from run folders: it only ever becomes text nodes and attribute values.
const D = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50; // lines that are painted at once
const at = (id) => document.getElementById(id);
const chosen = new Set();
const view = { kind: "groups", sort: null, worst: false, page: 0, columns: new Set() };

function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const fill = (node, ...children) => { node.replaceChildren(...children.flat(Infinity).filter(Boolean)); return node; };

// ------------------------------------------------------------------------------------------------- numbers
const COLUMN = new Map(D.columns.map((column, number) => [column.name, number]));
const ARROW = { lower: "\u00a0↓", higher: "\u00a0↑", "0.5": "\u00a0→\u00a00.5", "0": "\u00a0→\u00a00" };
const arrow = (column) => ARROW[column.wanted] || "";
const wrapped = (text) => text.split(/(?<=[._])/).flatMap((part, place) => (place ? [el("wbr"), part] : [part]));
function number(value, sign) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  const text = size > 0 && size < 5e-4 ? value.toExponential(0) : size < 1e3 ? value.toFixed(3)
    : size < 1e6 ? Math.round(value).toLocaleString("en") : value.toExponential(2);
  return sign && value > 0 ? "+" + text : text;
}
function badness(column, value) {
  if (column.wanted === "lower") return value;
  if (column.wanted === "higher") return -value;
  if (column.wanted === "0.5") return Math.abs(value - 0.5);
  if (column.wanted === "0") return Math.abs(value);
  return -value;
}

// ------------------------------------------------------------------------------------------------- lines
const vector = (place) => (place === null || place === undefined ? [] : D.vectors[place]);
D.runs.forEach((run, place) => Object.assign(run, {
  id: "run=" + run.key, place, kind: "run", label: D.groups[run.group].label, detail: run.seed === null ? run.name : `seed ${run.seed}`,
  mean: vector(run.after), sd: [], runs: [place], reference: D.groups[run.group].reference, gated: run.gate === false,
  front: D.groups[run.group].front,
}));
D.groups.forEach((group, place) => Object.assign(group, {
  id: `group=${group.section}.${group.rank}`, place, kind: "group", mean: vector(group.mean), sd: vector(group.sd),
  detail: group.runs.length === 1 ? `1 run` : `${group.runs.length} runs`,
}));
const BY_ID = new Map([...D.groups, ...D.runs].map((one) => [one.id, one]));
const lines = () => (view.kind === "groups" ? D.groups : D.runs);
const first = (one) => D.runs[one.runs[0]];
const states = (one) => new Set(one.runs.map((place) => D.runs[place].state));

function config(run) { // [path, value] pairs, whole
  if (!run.config) {
    const found = new Map(D.sections[run.section].base.map(([path, value]) => [D.paths[path], D.values[value]]));
    for (const [path, value] of run.diff) {
      if (value < 0) found.delete(D.paths[path]); else found.set(D.paths[path], D.values[value]);
    }
    run.config = found;
  }
  return run.config;
}
const typed = (value) => (typeof value === "string" ? value : JSON.stringify(value));
function haystack(one) {
  if (one.hay === undefined) {
    const run = first(one), section = D.sections[one.section];
    const settings = run.diff.filter(([, value]) => value >= 0).map(([path, value]) => `${D.paths[path]}=${typed(D.values[value])}`);
    one.hay = [one.label, one.detail, section.title, ...one.runs.flatMap((place) => {
      const own = D.runs[place];
      return [own.name, own.state, own.error];
    }), ...settings].join("\n").toLowerCase();
  }
  return one.hay;
}

// ------------------------------------------------------------------------------------------------- filters
const CONDITION = /^([\w.]+)(>=|<=|!=|=|<|>)(.+)$/;
const ends = (name, end) => name === end || name.endsWith("." + end);
function settles(one, word) { // one word or condition of the search
  const parts = CONDITION.exec(word);
  if (!parts) return haystack(one).includes(word.toLowerCase());
  const [, name, sign, text] = parts;
  const place = COLUMN.has(name) ? COLUMN.get(name) : D.columns.findIndex((column) => ends(column.name, name));
  const values = place >= 0 ? [one.mean[place]] : name === "seed" ? one.runs.map((run) => D.runs[run].seed)
    : [...config(first(one))].filter(([path]) => ends(path, name)).map(([, value]) => value);
  const wanted = Number(text), numeric = text.trim() !== "" && !Number.isNaN(wanted);
  return values.some((value) => {
    if (value === undefined || value === null) return sign === "=" && text === "null" && value === null;
    const own = numeric ? Number(value) : String(value).toLowerCase(), other = numeric ? wanted : text.toLowerCase();
    return { ">=": own >= other, "<=": own <= other, ">": own > other, "<": own < other, "=": own === other, "!=": own !== other }[sign];
  });
}
function matching() {
  const words = at("find").value.split(/\s+/).filter(Boolean);
  const [task, method, state] = ["task", "method", "state"].map((name) => at(name).value);
  return lines().filter((one) =>
    (task === "" || one.section === Number(task)) && (method === "" || one.method === method)
    && (state === "" || states(one).has(state)) && (!at("front").checked || one.front)
    && words.every((word) => settles(one, word)));
}
function ordered(found) {
  const sign = view.worst ? -1 : 1;
  const value = (one) => {
    if (view.sort === "label") return one.label;
    if (view.sort === "runs") return one.kind === "group" ? -one.runs.length : one.seed ?? 1e9;
    const place = view.sort ?? COLUMN.get(D.sections[one.section].sort);
    const own = one.mean[place];
    return own === null || own === undefined ? null : badness(D.columns[place], own);
  };
  const keyed = found.map((one) => [one, value(one)]);
  keyed.sort(([one, x], [other, y]) => one.section - other.section || (x === null) - (y === null)
    || sign * (x < y ? -1 : x > y ? 1 : 0) || one.place - other.place);
  return keyed.map(([one]) => one);
}

// ------------------------------------------------------------------------------------------------- the table
function columnsShown(found) {
  if (view.columns.size) return [...view.columns].sort((x, y) => x - y);
  const present = new Set(found.flatMap((one) => D.sections[one.section].shown));
  const all = [...present].sort((x, y) => x - y);
  return view.sort === null || typeof view.sort === "string" || present.has(view.sort) ? all : [view.sort, ...all];
}
const SORTS = new Set(D.sections.map((section) => section.sort));
const sorted = () => view.sort ?? (SORTS.size === 1 ? COLUMN.get(D.sections[0].sort) : null); // what lines are in the order of
function sortHead(name, key, title, extra) {
  const active = sorted() === key;
  const column = D.columns[key], rising = column ? column.wanted === "lower" : true;
  const sort = active ? (column && (column.wanted === "0.5" || column.wanted === "0") ? "other" : rising !== view.worst ? "ascending" : "descending") : null;
  return el("th", { scope: "col", "aria-sort": sort, ...extra }, el("button", {
    type: "button", title, "data-sort": key, onclick: () => sortBy(key),
  }, wrapped(name), column ? arrow(column) : null, active ? el("span", { class: "arrow", "aria-hidden": "true" }, view.worst ? " ▲" : " ▼") : null));
}
function sortBy(key) {
  view.worst = sorted() === key ? !view.worst : false;
  view.sort = key;
  view.page = 0;
  paint();
  const again = document.querySelector(`#table [data-sort="${key}"]`);
  if (again) again.focus();
}
function badges(one) {
  const found = states(one), told = [];
  for (const state of ["failed", "diverged", "unfinished"]) {
    if (found.has(state)) told.push(el("span", { class: "badge " + (state === "unfinished" ? "warn" : "bad") }, state));
  }
  if (one.gated) told.push(el("span", { class: "badge bad" }, "below MMLU gate"));
  if (one.reference) told.push(el("span", { class: "badge" }, "reference"));
  if (one.front) told.push(el("span", { class: "badge", title: "no other group is better in forgotten and in kept" }, "front"));
  return told;
}
function line(one, columns) {
  const pick = el("input", {
    type: "checkbox", "aria-label": `choose ${one.label} ${one.detail}`, checked: chosen.has(one.id), onchange: (event) => choose(one, event.target.checked),
  });
  const name = el("button", { type: "button", class: "link", onclick: () => { location.hash = one.id; } }, one.label);
  const cells = columns.map((place) => {
    const value = one.mean[place], spread = one.sd[place], best = one.best.includes(place);
    return el("td", { class: "num" + (best ? " best" : ""), "data-title": D.columns[place].title + arrow(D.columns[place]), role: "cell" },
      number(value), best ? " ★" : null, spread === null || spread === undefined ? null : el("small", {}, `± ${number(spread)}`));
  });
  return el("tr", { class: one.reference ? "quiet" : null, role: "row" },
    el("td", { class: "choose", role: "cell" }, pick),
    el("th", { scope: "row", class: "label", role: "rowheader" }, name, badges(one), one.kind === "run" ? el("small", {}, one.name) : null),
    el("td", { class: "num", role: "cell", "data-title": one.kind === "group" ? "runs" : "seed" }, String(one.kind === "group" ? one.runs.length : one.seed ?? "")),
    cells);
}
function referenceLines(section, columns) {
  return [["target", "before unlearning"], ["retrained", "retrained without the forget set"]].filter(([name]) => section[name] !== null).map(([name, told]) =>
    el("tr", { class: "quiet", role: "row" }, el("td", { class: "choose", role: "cell" }), el("th", { scope: "row", role: "rowheader" }, told), el("td", { role: "cell" }),
      columns.map((place) => el("td", { class: "num", role: "cell", "data-title": D.columns[place].title + arrow(D.columns[place]) }, number(vector(section[name])[place])))));
}
function paint() {
  const found = ordered(matching()), columns = columnsShown(found);
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const painted = found.slice(view.page * PAGE, (view.page + 1) * PAGE);
  const head = el("tr", { role: "row" }, el("th", { scope: "col", class: "choose" }, el("span", { class: "hidden" }, "choose")),
    sortHead("method", "label", "sort by name", { class: "text" }), sortHead(view.kind === "groups" ? "runs" : "seed", "runs", "sort by number"),
    columns.map((place) => sortHead(D.columns[place].title, place, `${D.columns[place].name}: ${D.columns[place].what}`)));
  const body = el("tbody", { role: "rowgroup" });
  let last = null;
  painted.forEach((one, place) => {
    if (one.section !== last) {
      last = one.section;
      body.append(el("tr", { class: "section", role: "row" }, el("th", { colspan: columns.length + 3, role: "columnheader" }, D.sections[last].title)));
    }
    body.append(line(one, columns));
    const next = painted[place + 1];
    const ending = next ? next.section !== last : view.page === pages - 1;
    if (ending) body.append(...referenceLines(D.sections[last], columns));
  });
  fill(at("table"), found.length === 0 ? el("p", { class: "scroll empty" }, "Nothing matches; clear the filters or fewer conditions.")
    : el("div", { class: "scroll", role: "region", "aria-label": "results", tabindex: "0" },
      el("table", { class: "cards", role: "table" }, el("caption", { class: "hidden" }, "Results; the best of each column among comparable lines has a star"), el("thead", { role: "rowgroup" }, head), body)));
  const from = found.length ? view.page * PAGE + 1 : 0;
  at("status").textContent = `${from} to ${view.page * PAGE + painted.length} of ${found.length} ${view.kind === "groups" ? "groups" : "runs"}${found.length < lines().length ? ` (${lines().length} without filters)` : ""}. ★ best of its column on one task.`;
  const step = (by, told) => el("button", { type: "button", disabled: view.page + by < 0 || view.page + by >= pages, onclick: () => { view.page += by; paint(); at("results").scrollIntoView(); } }, told);
  fill(at("pager"), pages > 1 ? [step(-1, "Previous"), el("span", {}, `page ${view.page + 1} of ${pages}`), step(1, "Next")] : []);
  at("sort").value = view.sort === null ? "" : String(view.sort);
  at("turn").textContent = view.worst ? "Worst first" : "Best first";
  dimMarks(found);
}
function dimMarks(found) { // marks in plots of groups that the filters leave out
  const kept = new Set(found.map((one) => (one.kind === "group" ? one.id : D.groups[one.group].id)));
  for (const link of document.querySelectorAll("figure a")) {
    link.classList.toggle("off", !kept.has((link.getAttribute("href") || link.getAttribute("xlink:href") || "").slice(1)));
  }
}

// ------------------------------------------------------------------------------------------------- choosing
function choose(one, on) {
  if (on) chosen.add(one.id); else chosen.delete(one.id);
  basket();
}
function basket() {
  const count = chosen.size;
  at("basket").hidden = count === 0;
  fill(at("basket"), el("span", { role: "status" }, `${count} chosen`),
    el("button", { type: "button", class: "strong", id: "compare", disabled: count < 2, onclick: () => { location.hash = "compare=" + [...chosen].slice(0, 4).map(encodeURIComponent).join(","); } },
      count > 4 ? "Compare the first 4" : "Compare"),
    el("button", { type: "button", onclick: () => { chosen.clear(); basket(); paint(); } }, "None"));
}

// ------------------------------------------------------------------------------------------------- the rest of the page
function spreadText(one, place) {
  const sd = one.sd[place];
  return [number(one.mean[place]), sd === null || sd === undefined ? null : el("small", {}, `± ${number(sd)}`)];
}
function winner(section) {
  const groups = D.groups.filter((group) => group.section === section.place && group.able && group.mean[COLUMN.get(section.sort)] !== null && group.mean.length);
  if (!groups.length) return null;
  const sort = COLUMN.get(section.sort), [best] = groups, retrained = vector(section.retrained)[sort];
  const facts = section.told.map((place) => [D.columns[place], spreadText(best, place), best.mean[place]]).filter(([, , value]) => value !== null && value !== undefined);
  const near = groups.slice(1).filter((group) => Math.abs(group.mean[sort] - best.mean[sort]) <= Math.max(group.sd[sort] ?? 0, best.sd[sort] ?? 0)).length;
  const bounded = groups.slice(0, 5).every((group) => group.mean[sort] >= 0 && group.mean[sort] <= 1);
  const bars = [...groups.slice(0, 5).map((group) => [group, group.mean[sort]]), ...(retrained === null || retrained === undefined ? [] : [[null, retrained]])];
  return el("div", { class: "winner" }, el("h3", {}, section.title),
    el("button", { type: "button", class: "link name", onclick: () => { location.hash = best.id; } }, best.label),
    el("dl", {}, facts.map(([column, told]) => el("div", {}, el("dt", {}, wrapped(column.title), arrow(column)), el("dd", {}, told)))),
    el("p", { class: "help" }, `By ${section.sort}, best of ${groups.length} ${groups.length === 1 ? "group" : "groups"} (n = ${best.runs.length})${near ? `; ${near} ${best.runs.length > 1 ? "within a standard deviation of it" : "as good"}` : ""}.`),
    el("ol", {}, bars.map(([group, value]) => el("li", { class: "bar" },
      group ? el("button", { type: "button", class: "link", title: group.label, onclick: () => { location.hash = group.id; } }, group.label) : el("em", {}, "retrained (reference)"),
      bounded ? track(value) : el("span"), el("span", { class: "value" }, number(value))))));
}
function track(value) {
  const inner = el("span", { class: "fill" });
  inner.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
  return el("span", { class: "track" }, inner);
}
function lists() {
  const ended = D.runs.filter((run) => run.state !== "done");
  const item = (run) => el("li", {}, el("span", { class: "badge " + (run.state === "unfinished" ? "warn" : "bad") }, run.state), " ",
    el("button", { type: "button", class: "link", onclick: () => { location.hash = run.id; } }, run.name), " ", run.error.split("\n").find((told) => told.trim()) || "no report yet");
  const more = (shown) => fill(at("ended-list"), el("ul", { class: "plain" }, ended.slice(0, shown).map(item)),
    ended.length > shown ? el("button", { type: "button", onclick: () => more(shown + 100) }, `More (${ended.length - shown})`) : null);
  more(30);
  fill(at("published-list"), D.published.map((table) => el("details", {}, el("summary", {}, `${table.title} (${table.rows.length} rows)`),
    el("p", { class: "help" }, `${D.mark}. Source: ${table.source}; ${table.how}. Model: ${table.model}.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "name"), table.scores.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, table.rows.map(([name, ...values]) => el("tr", {}, el("th", { scope: "row" }, name), values.map((value) => el("td", { class: "num" }, number(value)))))))))));
  fill(at("notes-list"), el("ul", {}, D.notes.map((note) => el("li", {}, note))));
  for (const [part, empty] of [["ended", !ended.length], ["published", !D.published.length]]) {
    at(part).hidden = empty;
    document.querySelector(`nav [data-part="${part}"]`).hidden = empty;
  }
}
function choices() {
  const groups = new Map();
  D.columns.forEach((column, place) => groups.set(column.group, [...(groups.get(column.group) || []), place]));
  fill(at("choices"), [...groups].map(([group, places]) => el("fieldset", {}, el("legend", {}, group), places.map((place) => el("label", { title: D.columns[place].what },
    el("input", { type: "checkbox", "data-place": place, onchange: (event) => toggle(place, event.target.checked) }), D.columns[place].title + arrow(D.columns[place]))))));
  at("chooser").addEventListener("toggle", () => {
    const shown = new Set(columnsShown(matching()));
    for (const box of at("choices").querySelectorAll("input")) box.checked = shown.has(Number(box.dataset.place));
  });
}
function toggle(place, on) {
  if (!view.columns.size) view.columns = new Set(columnsShown(matching()));
  if (on) view.columns.add(place); else view.columns.delete(place);
  paint();
}
const option = (value, told) => el("option", { value }, told);
function controls() {
  fill(at("task"), option("", "all"), D.sections.map((section, place) => option(place, section.title)));
  fill(at("method"), option("", "all"), [...new Set(D.groups.map((group) => group.method))].sort().map((name) => option(name, name)));
  fill(at("state"), option("", "all"), [...new Set(D.runs.map((run) => run.state))].map((name) => option(name, name)));
  fill(at("sort"), option("", "each task's own"), option("label", "method"), option("runs", "runs or seed"), D.columns.map((column, place) => option(place, column.title)));
  const again = () => { view.page = 0; paint(); };
  for (const name of ["task", "method", "state", "front"]) at(name).addEventListener("change", again);
  let waiting = 0;
  at("find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(again, 120); });
  at("sort").addEventListener("change", (event) => {
    const key = event.target.value;
    Object.assign(view, { sort: key === "" ? null : key === "label" || key === "runs" ? key : Number(key), worst: false, page: 0 });
    paint();
  });
  at("turn").addEventListener("click", () => { view.worst = !view.worst; again(); });
  at("clear").addEventListener("click", () => {
    for (const name of ["find", "task", "method", "state"]) at(name).value = "";
    at("front").checked = false;
    Object.assign(view, { sort: null, worst: false, page: 0, columns: new Set() });
    paint();
  });
  for (const radio of document.querySelectorAll('input[name="view"]')) {
    radio.addEventListener("change", () => { view.kind = radio.value; view.page = 0; paint(); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !at("panel").open) {
      event.preventDefault();
      at("find").focus();
    }
  });
}
function theme() {
  const names = ["auto", "light", "dark"], root = document.documentElement;
  const set = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    at("theme").textContent = `Theme: ${name}`;
    try { localStorage.setItem("lume-run-theme", name); } catch { /* pages from files may have no storage */ }
  };
  let stored = null;
  try { stored = localStorage.getItem("lume-run-theme"); } catch { /* as above */ }
  let place = Math.max(0, names.indexOf(stored));
  set(names[place]);
  at("theme").addEventListener("click", () => { place = (place + 1) % names.length; set(names[place]); });
}
function hints() { // marks in plots say which group they are; the table is their way by keyboard
  const hint = el("div", { id: "hint", hidden: true });
  document.body.append(hint);
  for (const link of document.querySelectorAll("figure a")) {
    link.setAttribute("tabindex", "-1");
    const one = BY_ID.get((link.getAttribute("href") || link.getAttribute("xlink:href") || "").slice(1));
    link.addEventListener("pointerenter", (event) => {
      hint.textContent = one ? `${one.label}\n${one.detail}` : "";
      hint.hidden = !one;
      hint.style.left = `${Math.min(event.clientX + 12, innerWidth - 240)}px`;
      hint.style.top = `${event.clientY + 14}px`;
    });
    link.addEventListener("pointerleave", () => { hint.hidden = true; });
  }
}
