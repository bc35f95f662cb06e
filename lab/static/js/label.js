// Ranking by keys: digits pick in order, = ties the last pick with the one above, arrows move it, 0 marks all
// bad, u undoes, s skips, f goes to its flags, shift and a digit mark it, c and w go to the texts, Enter hands in.
// The order is a list of groups: [[0], [2, 1], …], of places on the screen; the lab names answers by their index in the
// group, and `shown` leads from one to the other. The answers stay in their places. What is ranked so far is kept in
// this browser until it is handed in.
(() => {
  const data = JSON.parse(document.getElementById("label-data").textContent);
  const form = document.getElementById("rank-form"), answers = document.getElementById("answers"), list = document.getElementById("order");
  const hand = form.querySelector('[data-do="hand"]'), saved = document.getElementById("saved"), strip = document.querySelector(".strip-order");
  const instructions = document.getElementById("instructions"), nothing = document.getElementById("nothing");
  const texts = ["comment", "correction"].map((name) => form.elements[name]).filter(Boolean);
  const RENEW = 120000; // ms; a lease lasts ten minutes
  const outbox = Outbox(data.labeler, data.project);
  let task = data.task, order = [], past = [], last = -1, bad = false, flags = {}, marks = {}, seconds = 0, since = 0, busy = false, waiting = 0, tries = 0, times = [];

  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Read apart from the page, where nothing runs or loads, and then moved into it.
  const show = (node, html) => node.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
  const flat = () => order.flat();
  const n = () => task?.completions.length || 0;
  const state = () => JSON.stringify([order, last, bad, flags, marks]);
  const rankOf = (i) => { let rank = 1; for (const tie of order) { if (tie.includes(i)) return rank; rank += tie.length; } return 0; };
  const say = (text, failed = false) => { saved.textContent = text; saved.classList.toggle("fail", failed); };
  const elapsed = () => seconds + (since ? (performance.now() - since) / 1000 : 0);

  // Time counts while the page is in view, and while somebody is at work here the group stays theirs.
  let used = true, renewed = performance.now();
  async function renew() {
    if (!task || document.hidden || !used || busy || waiting) return;
    const id = task.id;
    used = false;
    renewed = performance.now();
    try { await outbox.post(`tasks/${id}/lease`); } catch (error) { if (error.status === 409 && task?.id === id) say(sentence(error.message)); }
  }
  setInterval(renew, RENEW);
  for (const kind of ["keydown", "pointerdown", "pointermove", "scroll", "input"]) addEventListener(kind, () => { used = true; }, { capture: true, passive: true });
  document.addEventListener("visibilitychange", () => {
    seconds = elapsed();
    since = document.hidden ? 0 : performance.now();
    if (!document.hidden && performance.now() - renewed > RENEW) { used = true; renew(); }
  });

  // What was ranked so far, in this browser. Private windows may refuse to keep it; ranking goes on without.
  const key = (id = task.id) => `rank:${data.labeler}:${data.project}:${id}`;
  const written = () => Object.fromEntries(texts.map((field) => [field.name, field.value]));
  const keep = () => { try { localStorage.setItem(key(), JSON.stringify({ order, last, bad, flags, marks, ...written(), seconds: elapsed() })); say("Saved in this browser as you go"); } catch { say(""); } };
  const forget = (id) => { try { localStorage.removeItem(key(id)); } catch { /* nothing was kept */ } };
  function recall() {
    try {
      const kept = JSON.parse(localStorage.getItem(key()));
      if (kept && kept.order.flat().every((i) => Number.isInteger(i) && i >= 0 && i < n())) return kept;
    } catch { /* begin anew */ }
    return null;
  }
  const change = (does) => { const before = state(); does(); if (state() !== before) { past.push(before); keep(); } draw(); };

  function begin(next, kept = null) {
    task = next;
    form.hidden = !task;
    nothing.hidden = Boolean(task);
    if (!task) { order = []; past = []; last = -1; since = 0; nothing.querySelector("[data-do]")?.parentElement.toggleAttribute("hidden", false); return; }
    const known = kept || recall() || {};
    order = known.order || []; last = known.last ?? -1; bad = known.bad || false; flags = known.flags || {}; marks = known.marks || {}; past = [];
    texts.forEach((field) => { field.value = known[field.name] || ""; });
    seconds = known.seconds || 0;
    since = document.hidden ? 0 : performance.now();
    form.elements.group.value = task.id;
    // Words as HTML come from lab/markup.py alone, which lets nothing through that could act.
    show(document.getElementById("prompt"), task.html.prompt);
    answers.replaceChildren(...task.shown.map(answer));
    document.querySelector("[data-last]").textContent = Math.min(9, n());
    const each = times.length ? ` · about ${Math.round(times.reduce((a, b) => a + b) / times.length)} s each` : "";
    document.getElementById("done").textContent = `${task.rankings.toLocaleString("en-GB")} of ${task.wanted.toLocaleString("en-GB")} ranked · yours: ${task.mine.toLocaleString("en-GB")}${each}`;
    const bar = document.getElementById("done-bar");
    bar.style.setProperty("--v", `${100 * task.rankings / Math.max(1, task.wanted)}%`);
    bar.setAttribute("aria-valuenow", task.rankings);
    draw();
  }

  function answer(index, i) {
    const item = make("li", "answer"), words = make("div", "words"), badge = make("span", "badge"), group = make("div", "flags");
    show(words, task.html.completions[index]);
    item.dataset.i = i;
    item.tabIndex = -1;
    words.dir = "auto";
    badge.setAttribute("aria-hidden", "true");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Flags for response ${i + 1}`);
    for (const flag of data.flags) {
      const button = make("button", "", flag);
      button.type = "button";
      button.dataset.flag = flag;
      group.append(button);
    }
    item.append(make("kbd", "", i + 1), words, badge);
    if (task.cut_off[index]) item.append(make("span", "tag cut-off", "cut off at the length limit"));
    // The one way to pick without a pointer or a digit: a button that reads the answer's place.
    const pick = make("button", "vh pick", `Pick response ${i + 1} as next best`);
    pick.type = "button";
    pick.dataset.pick = i;
    item.append(group);
    if (data.scale) item.append(scale(i));
    item.append(pick);
    return item;
  }

  function scale(i) {
    const group = make("div", "flags marks");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Mark of response ${i + 1}`);
    group.append(make("span", "small dim", "worst"));
    for (let mark = 1; mark <= data.scale; mark++) {
      const button = make("button", "", mark);
      button.type = "button";
      button.dataset.mark = mark;
      group.append(button);
    }
    group.append(make("span", "small dim", "best"));
    return group;
  }

  const missing = () => {
    const unplaced = n() - flat().length, unmarked = data.scale ? n() - Object.keys(marks).length : 0;
    if (bad) return "";
    if (unplaced) return unplaced === 1 ? "One answer has no place yet." : `${unplaced} answers have no place yet.`;
    return unmarked ? (unmarked === 1 ? "One answer has no mark yet." : `${unmarked} answers have no mark yet.`) : "";
  };

  function draw() {
    if (!task) return;
    [...answers.children].forEach((item, i) => {
      const rank = rankOf(i), badge = item.querySelector(".badge");
      badge.replaceChildren();
      if (rank || bad) badge.append(make("span", `stone people l${bad ? " failed" : ""}`, bad ? "" : rank));
      item.classList.toggle("placed", rank > 0);
      item.classList.toggle("last", i === last && rank > 0);
      const pick = item.querySelector("[data-pick]");
      if (pick) pick.textContent = rank ? `Response ${i + 1} is at place ${rank}; take it back` : `Pick response ${i + 1} as next best`;
      item.querySelectorAll("[data-flag]").forEach((button) => button.setAttribute("aria-pressed", String((flags[i] || []).includes(button.dataset.flag))));
      item.querySelectorAll("[data-mark]").forEach((button) => button.setAttribute("aria-pressed", String(marks[i] === Number(button.dataset.mark))));
    });
    list.replaceChildren(...order.map(row), ...Array.from({ length: Math.max(0, n() - flat().length) }, () => {
      const item = make("li", "free");
      item.append(make("span", "stone waiting"), make("span", "dim", "next best"));
      return item;
    }));
    const placed = flat().map((i) => [rankOf(i), i]).sort((a, b) => a[0] - b[0]).map(([, i]) => make("span", "stone people", i + 1));
    strip.replaceChildren(...(placed.length ? placed : [bad ? "all bad" : "best first: tap an answer"]));
    hand.setAttribute("aria-disabled", String(busy || Boolean(waiting) || !n() || Boolean(missing())));
  }

  function row(tie, at) {
    const item = make("li", tie.length > 1 ? "is-tie" : "");
    item.dataset.at = at;
    item.classList.toggle("chosen", tie.includes(last));
    for (const i of tie) {
      const line = make("span", "tied"), gist = make("span", "gist", task.completions[task.shown[i]]);
      gist.dir = "auto";
      line.append(make("span", "stone people", rankOf(i)), make("kbd", "", i + 1), gist);
      item.append(line);
    }
    const acts = make("span", "order-acts");
    for (const [what, sign, words] of [["up", "↑", "Move up"], ["down", "↓", "Move down"], ["tie", "=", tie.length > 1 ? "Untie" : "Tie with the one above"], ["out", "×", "Take back"]]) {
      const button = make("button", "btn quiet small", sign);
      button.type = "button";
      button.dataset.act = what;
      button.setAttribute("aria-label", `${words}: response ${tie.map((i) => i + 1).join(" and ")}`);
      button.title = words;
      acts.append(button);
    }
    item.append(acts);
    return item;
  }

  // What one does to the order.
  const pick = (i) => { if (i < n() && !flat().includes(i)) change(() => { bad = false; order.push([i]); last = i; }); else if (i < n()) { last = i; draw(); } };
  const takeBack = (i) => change(() => { order = order.map((tie) => tie.filter((j) => j !== i)).filter((tie) => tie.length); last = flat().at(-1) ?? -1; });
  const placeOf = (i) => order.findIndex((tie) => tie.includes(i));
  function tieUp() {
    const at = placeOf(last);
    if (at >= 0 && order[at].length > 1) change(() => { order[at] = order[at].filter((i) => i !== last); order.splice(at + 1, 0, [last]); });
    else if (at > 0) change(() => { order[at - 1].push(...order[at]); order.splice(at, 1); });
  }
  function move(from, to) {
    if (from < 0 || to < 0 || to >= order.length || from === to) return;
    change(() => { const [tie] = order.splice(from, 1); order.splice(to, 0, tie); if (!tie.includes(last)) last = tie[0]; });
  }
  const flag = (i, name) => change(() => {
    const now = flags[i] || [];
    flags = { ...flags, [i]: now.includes(name) ? now.filter((one) => one !== name) : [...now, name] };
    if (!flags[i].length) delete flags[i];
  });

  const mark = (i, value) => change(() => { if (marks[i] === value) { marks = { ...marks }; delete marks[i]; } else marks = { ...marks, [i]: value }; });

  const call = (path) => outbox.post(`${path}?html=1`);
  async function alone(does) {
    if (busy) return;
    busy = true;
    draw();
    try { await does(); } catch (error) {
      say(error.lost ? `${error.message} Your order is kept in this browser; try again.` : error.message, true);
      if (error.status === 409) begin(await call(`projects/${data.project}/next`).catch(() => task));
    } finally { busy = false; draw(); }
  }
  async function next(words, failed = false) {
    begin(await call(`projects/${data.project}/next`));
    say(words, failed);
    scrollTo({ top: 0 });
    document.getElementById("prompt").focus({ preventScroll: true });
  }

  // Sends what is handed in, now and again until the lab has answered; then comes the next group.
  async function deliver(words = "Handed in. Undo with u.", all = false) {
    clearTimeout(waiting);
    waiting = 0;
    try {
      const refused = await outbox.flush(all);
      tries = 0;
      form.classList.remove("waits");
      await next(refused[0] ? "Not taken: it is kept in this browser." : words, refused.length > 0);
      drawHeld();
    } catch (error) {
      if (!error.lost) throw error;
      form.classList.add("waits");
      const kept = outbox.waiting().length ? " Your ranking is kept in this browser and sent" : " The next group is fetched";
      say(`${error.message}${kept} ${error.status === 401 ? "when you have signed in again" : "as soon as it does"}.`, true);
      waiting = setTimeout(again, Math.min(15000, 1000 * 2 ** tries++));
    }
  }
  const again = () => alone(() => deliver());
  addEventListener("online", () => { if (waiting) again(); });
  // Another tab has handed in the group that stands here, too.
  addEventListener("storage", (event) => {
    if (outbox.owns(event.key)) drawHeld();
    if (outbox.owns(event.key) && event.newValue === null && !waiting && JSON.parse(event.oldValue)?.task === task?.id) alone(() => next("Handed in from another tab."));
  });

  // Rankings that the lab refused: shown with the reason, to be sent again or taken home. Only what was taken home can go.
  const held = document.getElementById("held");
  function drawHeld() {
    const kept = outbox.held(), n = kept.length, reasons = [...new Set(kept.map((entry) => sentence(entry.refused)))].join(" ");
    held.hidden = !n;
    held.querySelector("p").textContent = n ? `${n === 1 ? "One ranking was" : `${n} rankings were`} not taken, and ${n === 1 ? "is" : "are"} kept in this browser. ${reasons}` : "";
  }
  function takeHome() {
    const rows = outbox.held().map(({ task, body, at, submission, refused }) => JSON.stringify({ project: data.project, task, submission, handed_in: new Date(at).toISOString(), refused, ...body }));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "application/x-ndjson" }));
    link.download = `rankings-kept-${data.project}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    held.querySelector('[data-do="letGo"]').hidden = false;
  }

  const inGroup = (found) => Object.fromEntries(Object.entries(found).map(([i, value]) => [task.shown[i], value]));
  const onScreen = (found, shown) => Object.fromEntries(Object.entries(found).map(([i, value]) => [shown.indexOf(Number(i)), value]));

  const does = {
    hand: () => {
      if (busy) return undefined;
      if (waiting) return again();
      if (missing()) return say(missing());
      return alone(async () => {
        const whole = (bad ? [[...Array(n()).keys()]] : order).map((tie) => tie.map((i) => task.shown[i])), took = Math.min(86400, elapsed());
        outbox.put(task.id, { order: whole, all_bad: bad, flags: inGroup(flags), marks: inGroup(marks), ...written(), seconds: Math.round(took * 10) / 10 });
        forget(task.id);
        times = [...times.slice(-19), took];
        await deliver();
      });
    },
    skip: () => alone(async () => { await call(`tasks/${task.id}/skip`); forget(task.id); await next("Skipped: it goes to somebody else."); }),
    undo: () => {
      if (past.length && task) { [order, last, bad, flags, marks] = JSON.parse(past.pop()); keep(); return draw(); }
      return alone(async () => {
        const back = await call(`projects/${data.project}/undo`), whole = back.order.map((tie) => tie.map((i) => back.shown.indexOf(i)));
        begin(back, { order: back.all_bad ? [] : whole, last: back.all_bad ? -1 : whole.flat().at(-1), bad: back.all_bad, flags: onScreen(back.flags, back.shown), marks: onScreen(back.marks, back.shown), comment: back.comment, correction: back.correction, seconds: 0 });
        say("Your last ranking is back.");
      });
    },
    bad: () => change(() => { bad = !bad; if (bad) { order = []; last = -1; } }),
    resend: () => alone(() => deliver("What was kept in this browser is handed in now.", true)),
    takeHome,
    letGo: () => { outbox.held().forEach((entry) => outbox.drop(entry.submission)); drawHeld(); },
    comment: () => form.elements.comment?.focus(),
    correction: () => form.elements.correction?.focus(),
    flags: () => { const at = last >= 0 ? last : 0; answers.children[at]?.querySelector("[data-flag]")?.focus(); },
  };

  // Before the keys of every page, which know nothing of digits and arrows.
  document.addEventListener("keydown", (event) => {
    const done = () => { event.preventDefault(); event.stopPropagation(); };
    if (event.target.matches("textarea") && !event.isComposing) {
      if (event.key === "Escape") { done(); event.target.blur(); }
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { done(); does.hand(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.target.matches("input, select")) return;
    if (event.key === "?") { done(); return instructions.open ? instructions.close() : instructions.showModal(); }
    if (instructions.open || (event.key.length === 1 && !Lab.letters())) return;
    if (event.key === "u" && !task) { done(); return does.undo(); }
    if (!task) return;
    if (waiting || busy) { if (event.key === "Enter" && waiting) { done(); again(); } return; }
    const inFlags = event.target.closest?.(".flags");
    if (inFlags && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      done();
      const all = [...inFlags.querySelectorAll("button")];
      return all[(all.indexOf(event.target) + (event.key === "ArrowRight" ? 1 : all.length - 1)) % all.length].focus();
    }
    if (inFlags && event.key === "Escape") { done(); return event.target.blur(); }
    const shifted = event.shiftKey && /^Digit[1-9]$/.test(event.code) && !/^[0-9=]$/.test(event.key) ? Number(event.code.at(-1)) : 0;
    if (shifted) { if (shifted <= data.scale && last >= 0) { done(); mark(last, shifted); } }
    else if (event.key >= "1" && event.key <= "9") { done(); pick(Number(event.key) - 1); }
    else if (event.key === "=") { done(); tieUp(); }
    else if (event.key === "ArrowUp") { done(); move(placeOf(last), placeOf(last) - 1); }
    else if (event.key === "ArrowDown") { done(); move(placeOf(last), placeOf(last) + 1); }
    else if (event.key === "Enter" && !event.target.closest("button, a")) { done(); does.hand(); }
    else {
      const act = { 0: does.bad, u: does.undo, s: does.skip, f: does.flags, c: does.comment, w: does.correction }[event.key];
      if (act) { done(); act(); }
    }
  }, true);

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-instructions]")) return instructions.showModal();
    const button = event.target.closest("button");
    if (waiting && !(button?.dataset.do === "hand")) return undefined;
    if (button?.dataset.do) { event.preventDefault(); return void does[button.dataset.do](); }
    if (button?.dataset.flag) return flag(Number(button.closest(".answer").dataset.i), button.dataset.flag);
    if (button?.dataset.mark) return mark(Number(button.closest(".answer").dataset.i), Number(button.dataset.mark));
    if (button?.dataset.pick) { const i = Number(button.dataset.pick); return flat().includes(i) ? takeBack(i) : pick(i); }
    const line = event.target.closest("#order li[data-at]");
    if (line) {
      const at = Number(line.dataset.at);
      if (!order[at].includes(last)) { last = order[at][0]; draw(); }
      const act = button?.dataset.act;
      if (act === "up") move(at, at - 1); else if (act === "down") move(at, at + 1);
      else if (act === "tie") tieUp(); else if (act === "out") takeBack(last);
      return undefined;
    }
    const item = event.target.closest(".answer");
    // Somebody who marks words with the mouse does not want to pick.
    if (item && !event.target.closest("a") && !getSelection().toString()) pick(Number(item.dataset.i));
    return undefined;
  });

  // Drag in the list, with a mouse or a finger.
  let dragged = -1, start = 0;
  list.addEventListener("pointerdown", (event) => {
    const item = event.target.closest("li[data-at]");
    if (!item || event.target.closest("button") || event.button) return;
    dragged = Number(item.dataset.at);
    start = event.clientY;
    list.setPointerCapture(event.pointerId);
  });
  list.addEventListener("pointermove", (event) => {
    if (dragged < 0) return;
    const items = [...list.querySelectorAll("li[data-at]")], item = items[dragged];
    item.classList.add("dragged");
    item.style.translate = `0 ${event.clientY - start}px`;
  });
  const drop = (event) => {
    if (dragged < 0) return;
    const items = [...list.querySelectorAll("li[data-at]")], from = dragged;
    items[from].style.translate = "";
    items[from].classList.remove("dragged");
    dragged = -1;
    if (Math.abs(event.clientY - start) < 6) {
      last = order[from][0];
      return draw();
    }
    const middles = items.map((item) => { const box = item.getBoundingClientRect(); return box.top + box.height / 2; });
    const to = middles.filter((middle, i) => i !== from && middle < event.clientY).length;
    return move(from, to);
  };
  list.addEventListener("pointerup", drop);
  list.addEventListener("pointercancel", () => { dragged = -1; draw(); });

  form.addEventListener("submit", (event) => event.preventDefault());
  texts.forEach((field) => field.addEventListener("input", () => { if (task) keep(); }));
  begin(task);
  drawHeld();
  if (outbox.waiting().length) alone(() => deliver("What was kept in this browser is handed in now."));
  else if (task && !recall()) say("Saved in this browser as you go");
})();
