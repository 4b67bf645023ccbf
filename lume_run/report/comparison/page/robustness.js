// What attacks brought back: methods by attacks, scores against steps, and in the dialog each strength and the texts.
const LINES = 40, DRAWN = 8; // lines of a table painted at once, methods in a plot
const attackedRuns = (one) => one.runs.map((place) => D.runs[place]).filter((run) => run.attacks);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1));
const known = (values) => values.filter((value) => value !== null && value !== undefined);
const STRENGTH = { attack: 0, label: 1, amount: 2, series: 3, score: 4, target: 5, before: 6, after: 7, controlBefore: 8, controlAfter: 9, recovered: 10 };

function shareOf(run, attack, score) { // [value, low, high] of a score, or of the largest that `forgotten` is made from
  const shares = run.attacks.shares.filter(([place]) => D.names[place] === attack);
  if (score) return (shares.find(([, place]) => D.names[place] === score) || []).slice(2);
  const most = run.mean[COLUMN.get(`recovered.${attack}`)];
  return most === null || most === undefined ? [] : [most, ...(shares.find(([, , value]) => value === most) || []).slice(3)];
}
function heat(node, share) {
  node.style.background = `color-mix(in srgb, var(--heat) ${Math.round(75 * Math.max(0, Math.min(1, share)))}%, var(--card))`;
  return node;
}
function shareCell(one, attack, score) {
  const tried = attackedRuns(one).filter((run) => run.attacks.rows.some((row) => D.names[row[STRENGTH.attack]] === attack) || run.attacks.texts[D.names.indexOf(attack)]);
  const pairs = attackedRuns(one).map((run) => [run, shareOf(run, attack, score)]).filter(([, share]) => share.length);
  const opens = (run) => () => { location.hash = `attack=${encodeURIComponent(run.key + ":" + attack)}`; };
  if (!pairs.length) return el("td", { class: "num" }, tried.length ? el("button", { type: "button", class: "link", title: "nothing to bring back, or nothing compared: report.md says why", onclick: opens(tried[0]) }, "n/a") : "");
  const values = pairs.map(([, [value]]) => value), [run, [, low, high]] = pairs[0];
  const spread = values.length > 1 ? `± ${number(deviation(values))}` : low === null || low === undefined ? null : `[${number(low)}, ${number(high)}]`;
  const button = el("button", { type: "button", "aria-label": `${one.label}, ${attack}: ${number(mean(values))} came back`, onclick: opens(run) }, number(mean(values)));
  return heat(el("td", { class: "num heat" }, button, spread ? el("small", {}, spread) : null), mean(values));
}
function robustness() {
  const groups = D.groups.filter((group) => attackedRuns(group).length);
  const hidden = !groups.length;
  at("robustness").hidden = hidden;
  document.querySelector('nav [data-part="robustness"]').hidden = hidden;
  if (hidden) return;
  const scores = [...new Set(groups.flatMap((group) => attackedRuns(group).flatMap((run) => run.attacks.shares.map(([, score]) => D.names[score]))))];
  fill(at("attacked-score"), option("", "most of what was forgotten"), scores.map((name) => option(name, name)));
  at("attacked-score").addEventListener("change", () => paintAttacks(groups, scores));
  paintAttacks(groups, scores);
}
function paintAttacks(groups, scores) {
  const score = at("attacked-score").value, sections = [...new Set(groups.map((group) => group.section))];
  fill(at("attacked"), sections.map((place) => attackTable(D.sections[place].title, groups.filter((group) => group.section === place), score)));
  fill(at("attack-curves"), sections.map((place) => {
    const inside = groups.filter((group) => group.section === place), plots = attackPlots(inside, score || curveScore(inside, scores));
    return plots.length ? [el("h3", {}, D.sections[place].title), el("div", { class: "curves" }, plots)] : null;
  }));
}
function attackTable(title, groups, score) {
  const attacks = [...new Set(groups.flatMap((group) => attackedRuns(group).flatMap((run) => [...run.attacks.shares, ...run.attacks.rows].map(([attack]) => D.names[attack]))))];
  const box = el("div", { class: "attacked" });
  const line = (group) => el("tr", { class: group.reference ? "quiet" : null }, el("th", { scope: "row", class: "label" }, el("button", { type: "button", class: "link", onclick: () => { location.hash = group.id; } }, group.label)),
    attacks.map((attack) => shareCell(group, attack, score)));
  const show = (most) => fill(box, el("h3", {}, title), grid(`recovered by attacks, ${title}`, ["method", ...attacks], groups.slice(0, most).map(line)),
    groups.length > most ? el("button", { type: "button", onclick: () => show(most + LINES) }, "More") : null);
  return show(LINES);
}

// ------------------------------------------------------------------------------------------------- curves
function curveScore(groups, scores) { // the first that has curves
  const rows = groups.flatMap((group) => attackedRuns(group).flatMap((run) => run.attacks.rows));
  return scores.find((name) => rows.some((row) => row[STRENGTH.series] !== null && D.names[row[STRENGTH.series]] && D.names[row[STRENGTH.score]] === name)) || "";
}
function seriesRows(run, attack, score) {
  return run.attacks.rows.filter((row) => D.names[row[STRENGTH.series]] && D.names[row[STRENGTH.attack]] === attack && D.names[row[STRENGTH.score]] === score);
}
const grouped = (rows, key, value) => rows.reduce((map, row) => map.set(key(row), [...(map.get(key(row)) || []), ...known([value(row)])]), new Map());
function attackPoints(rows, score) { // by amount the worst over the series, from what was before on
  const column = D.columns[COLUMN.get(score)], rises = !column || column.wanted !== "higher";
  const worst = (values) => (rises ? Math.max(...values) : Math.min(...values));
  const points = [...grouped(rows, (row) => row[STRENGTH.amount], (row) => row[STRENGTH.after])].filter(([, values]) => values.length).map(([amount, values]) => [amount, worst(values)]);
  const start = known(rows.map((row) => row[STRENGTH.before]));
  return [...(start.length ? [[0, start[0]]] : []), ...points].sort(([x], [other]) => x - other);
}
function controlBand(rows) { // by amount the least and the most of the controls
  const start = known(rows.map((row) => row[STRENGTH.controlBefore]));
  const points = [...grouped(rows, (row) => row[STRENGTH.amount], (row) => row[STRENGTH.controlAfter])].filter(([, values]) => values.length);
  return [...(start.length ? [[0, start]] : []), ...points].map(([amount, values]) => [amount, Math.min(...values), Math.max(...values)]).sort(([x], [other]) => x - other);
}
function averaged(runs) { // points of several runs at the amounts that all have
  const [head, ...rest] = runs.map((points) => new Map(points));
  return head ? [...head].filter(([amount]) => rest.every((points) => points.has(amount))).map(([amount, value]) => [amount, mean([value, ...rest.map((points) => points.get(amount))])]) : [];
}
function attackPlots(groups, score) {
  const attacks = [...new Set(groups.flatMap((group) => attackedRuns(group).flatMap((run) => run.attacks.rows.map(([attack]) => D.names[attack]))))];
  return attacks.map((attack) => {
    const lines = groups.map((group) => [group, averaged(attackedRuns(group).map((run) => attackPoints(seriesRows(run, attack, score), score)).filter((points) => points.length > 1))]).filter(([, points]) => points.length > 1).slice(0, DRAWN);
    const rows = groups.flatMap((group) => attackedRuns(group).flatMap((run) => seriesRows(run, attack, score)));
    return lines.length ? attackPlot(`${score} under ${attack}, against its strength (steps)`, lines.map(([group, points], place) => [place, points, group.label]), controlBand(rows)) : null;
  }).filter(Boolean);
}
function attackPlot(told, lines, band) {
  const figure = plot(told, lines, band);
  figure.append(el("ul", { class: "plain keys" }, lines.map(([place, , label]) => el("li", {}, swatch(place), label)), band.length ? el("li", {}, el("span", { class: "key band", "aria-hidden": "true" }), "control under the same attack") : null));
  return figure;
}

// ------------------------------------------------------------------------------------------------- the dialog
function attackParts(rest) { // [title, parts] of one attack on one run, null where there is none
  const [, key, attack] = /^([^:]*):(.*)$/s.exec(rest) || [], run = D.runs.find((other) => other.key === key && other.attacks);
  const rows = run ? run.attacks.rows.filter((row) => D.names[row[STRENGTH.attack]] === attack) : [];
  const [strength, texts] = (run && run.attacks.texts[D.names.indexOf(attack)]) || [null, []];
  if (!rows.length && !texts.length) return null;
  const parts = [["Texts", attackTexts(texts, strength)], ["Strengths", attackStrengths(run, attack, rows)]];
  return { title: `${attack} on ${titled(run)}`, about: el("p", {}, `${run.attacks.subject} under ${attack}; control: ${run.attacks.control || "none"}. `, el("button", { type: "button", class: "link", onclick: () => { location.hash = run.id; } }, "The run itself")), parts };
}
function attackStrengths(run, attack, rows) {
  const scores = [...new Set(rows.map((row) => D.names[row[STRENGTH.score]]))], box = el("div");
  const pick = el("select", {}, scores.map((name) => option(name, name)));
  const show = () => {
    const shown = rows.filter((row) => D.names[row[STRENGTH.score]] === pick.value), bySeries = [...new Set(shown.map((row) => row[STRENGTH.series]))].filter((series) => D.names[series]);
    const lines = bySeries.map((series, place) => [place, attackPoints(shown.filter((row) => row[STRENGTH.series] === series), pick.value), D.names[series]]).filter(([, points]) => points.length > 2).slice(0, DRAWN);
    const numbers = ["target", "before", "after", "controlBefore", "controlAfter"];
    fill(box, lines.length ? el("div", { class: "curves" }, attackPlot(`${pick.value} against steps`, lines, controlBand(shown))) : null,
      grid("strengths", ["strength", "before unlearning", "unlearned", "attacked", "control", "control attacked", "recovered"], shown.map((row) => el("tr", {}, el("th", { scope: "row" }, D.names[row[STRENGTH.label]]),
        numbers.map((name) => el("td", { class: "num" }, number(row[STRENGTH[name]]))),
        row[STRENGTH.recovered] === null ? el("td", { class: "num" }, "n/a") : heat(el("td", { class: "num heat" }, number(row[STRENGTH.recovered])), row[STRENGTH.recovered])))));
  };
  pick.addEventListener("change", show);
  show();
  return scores.length ? [el("div", { class: "controls" }, el("label", {}, "Score ", pick)), box] : null;
}
function attackTexts(texts, strength) {
  if (!texts.length) return el("p", { class: "help" }, "No texts are kept of this attack.");
  const cell = (told, content) => el("div", {}, el("h4", {}, told), content);
  return [el("p", { class: "help" }, `Answers that then give away more than before, at ${D.names[strength]}. Marked: `, Object.entries(KINDS).map(([name, told]) => [el("mark", { class: name }, told), " "])),
    texts.map(([prompt, target, before, after]) => {
      const [id, , subtask, what, attribute, text, expected] = D.prompts[prompt];
      return el("article", { class: "prompt forget" }, el("header", {}, [subtask, what, attribute, id].filter(Boolean).join(" · ")), el("p", {}, D.texts[text]),
        el("div", { class: "answers" }, cell("expected", D.texts[expected]), target === null ? null : cell("before unlearning", marked(target)), before === null ? null : cell("unlearned", marked(before)), cell("attacked", marked(after))));
    })];
}
