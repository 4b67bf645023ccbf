// One run, one group or several of either, in a dialog: scores, settings, training curves, prompts side by side.
const COLOURS = Array.from({ length: 8 }, (_, place) => `var(--c${place})`);
const PROMPTS = 10; // painted at once
const titled = (one) => (one.kind === "run" ? `${one.label} (${one.detail})` : one.label);
const swatch = (place) => {
  const key = el("span", { class: "key", "aria-hidden": "true" });
  key.style.background = COLOURS[place];
  return key;
};
const grid = (label, head, body, words) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
  el("table", {}, el("thead", {}, el("tr", {}, head.map((told, place) => el("th", { scope: "col", class: told === "wanted" ? "text wanted" : place && !words ? null : "text" }, told)))), el("tbody", {}, body)));

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return ""; } // an address that somebody mistyped
}
function openPanel() {
  const [what, rest = ""] = location.hash.slice(1).split(/=(.*)/s), panel = at("panel");
  const ids = what === "compare" ? rest.split(",").map(decoded) : [`${what}=${decoded(rest)}`];
  const found = ids.map((id) => BY_ID.get(id)).filter(Boolean).slice(0, 4), attack = what === "attack" ? attackParts(decoded(rest)) : null;
  if (!found.length && !attack) { if (panel.open) panel.close(); return; }
  const close = el("button", { type: "button", id: "close", onclick: () => panel.close() }, "Close");
  const shown = attack || {
    title: found.length > 1 ? `Comparison of ${found.length}` : titled(found[0]), about: found.length > 1 ? legend(found) : about(found[0]),
    parts: [["Scores", scores(found)], ["Settings", settings(found)], ["Training", curves(found)], ["Prompts", prompts(found)]],
  };
  const parts = shown.parts.filter(([, content]) => content).map(([title, content]) => [el("h3", { tabindex: "-1" }, title), content]);
  const jump = ([title]) => el("button", { type: "button", class: "link", onclick: () => { title.scrollIntoView(); title.focus(); } }, title.textContent);
  fill(panel, el("div", { class: "panel-head" }, el("h2", { id: "panel-title" }, shown.title), el("div", { class: "jumps" }, parts.map(jump)), close),
    el("div", { class: "panel-body" }, shown.about, parts.flat(Infinity)));
  if (!panel.open) panel.showModal();
  panel.querySelector(".panel-body").scrollTop = 0;
}
const legend = (found) => el("ul", { class: "plain" }, found.map((one, place) => el("li", {}, swatch(place), el("button", { type: "button", class: "link", onclick: () => { location.hash = one.id; } }, titled(one)), badges(one))));

function about(one) {
  const run = first(one), section = D.sections[one.section];
  const rows = one.kind === "group" ? [["task", section.title], ["runs", el("span", {}, one.runs.map((place) => [el("button", { type: "button", class: "link", onclick: () => { location.hash = D.runs[place].id; } }, D.runs[place].detail), " "]))]]
    : [["task", section.title], ["folder", run.folder], ["state", run.state], ["began", run.when], ["data", run.source], ["MMLU gate", run.gate === null ? run.rule : `${run.gate ? "pass" : "FAIL"} (${run.rule})`],
      ["command", run.command.length ? el("code", {}, run.command.join(" ")) : ""], ["git", run.git], ["hardware", run.hardware]];
  return [badges(one), one.runs.map((place) => D.runs[place]).filter((own) => own.error).map((own) => el("div", { class: "error" }, one.kind === "group" ? `${own.detail}: ${own.error}` : own.error)),
    el("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    run.warnings.length && one.kind === "run" ? el("ul", {}, run.warnings.map((told) => el("li", {}, told))) : null];
}

function scores(found) {
  const alone = found.length === 1, run = first(found[0]);
  const same = found.every((one) => first(one).before === run.before), before = same ? vector(run.before) : [];
  const retrained = found.every((one) => first(one).retrained === run.retrained) ? vector(run.retrained) : [];
  const places = D.columns.map((_, place) => place).filter((place) => found.some((one) => one.mean[place] !== null && one.mean[place] !== undefined));
  if (!places.length) return el("p", { class: "help" }, "No scores: the run did not get that far.");
  const pair = found.length === 2;
  const head = ["score", "wanted", before.length ? "before" : null, ...found.map((one, place) => (alone ? "after" : el("span", {}, swatch(place), titled(one)))), alone && before.length ? "change" : pair ? "second − first" : null, retrained.length ? "retrained" : null].filter((told) => told !== null);
  const row = (place) => {
    const column = D.columns[place], values = found.map((one) => one.mean[place] ?? null);
    const [low, high] = alone ? [before[place], values[0]] : values;
    const change = (alone && before.length) || pair ? (low === null || low === undefined || high === null ? null : high - low) : undefined;
    const known = values.filter((value) => value !== null).map((value) => badness(column, value));
    const best = (value) => !alone && column.wanted && value !== null && new Set(known).size > 1 && badness(column, value) === Math.min(...known);
    return el("tr", {}, el("th", { scope: "row", title: column.what }, wrapped(column.title)), el("td", { class: "text wanted" }, column.wanted || "-"), before.length ? el("td", { class: "num" }, number(before[place])) : null,
      found.map((one, turn) => el("td", { class: "num" + (best(values[turn]) ? " best" : "") }, number(values[turn]), best(values[turn]) ? " ★" : null, one.sd[place] === null || one.sd[place] === undefined ? null : el("small", {}, `± ${number(one.sd[place])}`))),
      change === undefined ? null : el("td", { class: "num" }, number(change, true)), retrained.length ? el("td", { class: "num" }, number(retrained[place])) : null);
  };
  const box = el("div"), headlines = places.filter((place) => D.columns[place].detail === 0);
  const show = (all) => fill(box, grid("scores", head, (all ? places : headlines).map(row)), headlines.length < places.length ? el("p", {}, el("button", { type: "button", onclick: () => show(!all) }, all ? "Headlines only" : `All ${places.length} scores`)) : null);
  return show(headlines.length === 0);
}

const value = (own) => (own === undefined ? el("em", {}, "absent") : el("code", {}, typed(own)));
function settings(found) {
  if (found.length > 1) {
    const configs = found.map((one) => config(first(one))), paths = [...new Set(configs.flatMap((own) => [...own.keys()]))];
    const differing = paths.filter((path) => new Set(configs.map((own) => JSON.stringify(own.get(path)))).size > 1);
    return differing.length ? grid("settings that differ", ["setting", ...found.map((one, place) => el("span", {}, swatch(place), titled(one)))],
      differing.map((path) => el("tr", {}, el("th", { scope: "row" }, wrapped(path)), configs.map((own) => el("td", { class: "text" }, value(own.get(path)))))), true) : el("p", {}, "They have the same settings.");
  }
  const run = first(found[0]), own = config(run), others = D.runs.filter((other) => other.section === run.section && other !== run);
  const counts = new Map([...new Set([run, ...others].flatMap((other) => [...config(other).keys()]))].map((path) => [path, new Map()]));
  for (const other of others) for (const [path, seen] of counts) {
    const told = JSON.stringify(config(other).get(path));
    seen.set(told, (seen.get(told) || 0) + 1);
  }
  const rows = [...counts].filter(([path, seen]) => seen.size > 1 || (seen.size === 1 && !seen.has(JSON.stringify(own.get(path)))));
  const told = (seen) => [...seen].sort(([, x], [, y]) => y - x).slice(0, 4).map(([text, count]) => `${text === undefined ? "absent" : text} ×${count}`).join(", ") + (seen.size > 4 ? ", …" : "");
  return [others.length === 0 ? el("p", { class: "help" }, "The only run of its task.") : rows.length ? grid("how it differs from the other runs", ["setting", "here", `the ${others.length} other runs of its task`],
    rows.map(([path, seen]) => el("tr", {}, el("th", { scope: "row" }, wrapped(path)), el("td", { class: "text" }, value(own.get(path))), el("td", { class: "text" }, told(seen)))), true) : el("p", {}, "It has the settings of all others."),
  el("details", {}, el("summary", {}, `Whole config (${own.size} settings)`), el("pre", { tabindex: "0" }, [...own].map(([path, leaf]) => `${path}: ${typed(leaf)}`).join("\n")))];
}

// ------------------------------------------------------------------------------------------------- curves
function curves(found) {
  const named = [["forget_nll", "loss on forget answers [nats per token]"], ["retain_nll", "loss on retain answers [nats per token]"]];
  const drawn = named.map(([name, told]) => plot(told, found.map((one, place) => [place, first(one).curves[name] || []]).filter(([, points]) => points.length > 1))).filter(Boolean);
  return drawn.length ? el("div", { class: "curves" }, drawn) : null;
}
function plot(told, series, band = []) { // lines of [colour, points], and a band of [x, least, most] behind them
  if (!series.length) return null;
  const [width, height, left, low] = [340, 190, 44, 24], all = [...series.flatMap(([, points]) => points), ...band.flatMap(([x, least, most]) => [[x, least], [x, most]])];
  const most = Math.max(...all.map(([, y]) => y)), bent = most > 20, lift = (y) => (bent ? Math.log10(1 + Math.max(0, y)) : y);
  const [x0, x1] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))], [y0, y1] = [Math.min(0, ...all.map(([, y]) => lift(y))), lift(most) || 1];
  const x = (own) => left + ((own - x0) / (x1 - x0 || 1)) * (width - left - 8), y = (own) => height - low - ((lift(own) - y0) / (y1 - y0 || 1)) * (height - low - 8);
  const svg = (tag, props, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, own] of Object.entries(props)) node.setAttribute(name, own);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const ticks = bent ? [0, 1, 10, 100, 1e3, 1e4].filter((tick) => tick <= most) : [0, most / 2, most];
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told });
  for (const tick of ticks) {
    picture.append(svg("line", { x1: left, x2: width - 8, y1: y(tick), y2: y(tick), stroke: "var(--line)" }));
    picture.append(svg("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end", "font-size": 11 }, Number(tick.toPrecision(2)).toString()));
  }
  for (const [own, anchor] of [[x0, "start"], [x1, "end"]]) picture.append(svg("text", { x: x(own), y: height - 6, "text-anchor": anchor, "font-size": 11 }, anchor === "end" ? `step ${Math.round(own)}` : Math.round(own)));
  if (band.length) picture.append(svg("polygon", { points: [...band.map(([px, , most]) => [px, most]), ...[...band].reverse().map(([px, least]) => [px, least])].map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" "), class: "band" }));
  for (const [place, points] of series) picture.append(svg("polyline", { points: points.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" "), fill: "none", stroke: COLOURS[place], "stroke-width": 2 }));
  return el("figure", {}, el("figcaption", {}, told), picture);
}

// ------------------------------------------------------------------------------------------------- prompts
const KINDS = { exact: "a whole private fact", partial: "a telling part of one", same: "words of the expected answer" };
function marked(answer) { // [text, start, end, kind, attribute, ...]
  const [text, ...marks] = D.answers[answer], points = Array.from(text), parts = [];
  let last = 0;
  for (let place = 0; place < marks.length; place += 4) {
    const [start, end, kind, attribute] = marks.slice(place, place + 4), name = ["exact", "partial", "same"][kind];
    parts.push(points.slice(last, start).join(""), el("mark", { class: name, title: attribute ? `${attribute}: ${KINDS[name]}` : KINDS[name] }, points.slice(start, end).join("")));
    last = end;
  }
  return [...parts, points.slice(last).join("")];
}
const leaking = (answer) => answer !== null && D.answers[answer].some((kind, place) => place % 4 === 3 && kind < 2);
function prompts(found) {
  const tables = found.map((one) => new Map(first(one).prompts.map(([prompt, before, after]) => [prompt, [before, after]])));
  const all = [...new Set(tables.flatMap((table) => [...table.keys()]))].filter((prompt) => found.length === 1 || tables.every((table) => table.has(prompt)));
  if (!all.length) return el("p", { class: "help" }, found.length > 1 ? "No prompt is kept of all of them." : "No prompts are kept of this run.");
  const kinds = [...new Set(all.map((prompt) => `${D.prompts[prompt][2]} ${D.prompts[prompt][3]}`))].sort();
  const side = el("select", { id: "side" }, option("", "both"), option("forget", "forget"), option("retain", "retain")), kind = el("select", {}, option("", "all"), kinds.map((name) => option(name, name)));
  const leaks = el("input", { type: "checkbox", id: "leaks" }), list = el("div"), count = el("p", { class: "help", role: "status" });
  const card = (prompt) => {
    const [id, own, subtask, what, attribute, text, expected] = D.prompts[prompt], answers = tables.map((table) => table.get(prompt));
    const before = answers[0][0] !== null && answers.every(([other]) => other === answers[0][0]) ? answers[0][0] : null;
    const cell = (told, content) => el("div", {}, el("h4", {}, told), content);
    return el("article", { class: `prompt ${own}` }, el("header", {}, [own, subtask, what, attribute, id].filter(Boolean).join(" · ")), el("p", {}, D.texts[text]),
      el("div", { class: "answers" }, cell("expected", D.texts[expected]), before === null ? null : cell("before", marked(before)),
        answers.map(([, after], place) => cell(found.length > 1 ? [swatch(place), titled(found[place])] : "after", after === null ? "" : marked(after)))));
  };
  const show = (most) => {
    const kept = all.filter((prompt) => (!side.value || D.prompts[prompt][1] === side.value) && (!kind.value || `${D.prompts[prompt][2]} ${D.prompts[prompt][3]}` === kind.value)
      && (!leaks.checked || tables.some((table) => leaking(table.get(prompt)[1]))));
    count.textContent = `${Math.min(most, kept.length)} of ${kept.length} prompts` + (found.some((one) => one.kind === "group" && one.runs.length > 1) ? "; of a group those of its first run" : "");
    fill(list, kept.slice(0, most).map(card), kept.length > most ? el("button", { type: "button", onclick: () => show(most + PROMPTS) }, "More") : null);
  };
  for (const control of [side, kind, leaks]) control.addEventListener("change", () => show(PROMPTS));
  show(PROMPTS);
  return [el("div", { class: "controls" }, el("label", {}, "Side ", side), el("label", {}, "Kind ", kind), el("label", { class: "check" }, leaks, " private facts given away after unlearning")),
    el("p", { class: "help" }, "Marked: ", Object.entries(KINDS).map(([name, told]) => [el("mark", { class: name }, told), " "]), "(on the retain side in green)."), count, list];
}

// ------------------------------------------------------------------------------------------------- start
D.sections.forEach((section, place) => { section.place = place; });
theme();
controls();
choices();
const tally = (state) => D.runs.filter((run) => run.state === state).length;
at("counts").textContent = [`${D.runs.length} runs`, `${D.groups.length} groups`, `${D.sections.length} ${D.sections.length === 1 ? "task" : "tasks"}`, ...["failed", "diverged", "unfinished"].map((state) => (tally(state) ? `${tally(state)} ${state}` : "")), D.made].filter(Boolean).join(" · ");
fill(at("winners"), D.sections.map(winner));
at("answer").hidden = !at("winners").children.length;
lists();
hints();
paint();
robustness();
at("panel").addEventListener("close", () => {
  if (/^#(run|group|compare|attack)=/.test(location.hash)) history.replaceState(null, "", location.pathname + location.search);
});
addEventListener("hashchange", openPanel);
openPanel();
document.documentElement.dataset.ready = "yes";
