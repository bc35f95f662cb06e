// A battle: a prompt goes to two hidden models, their answers come side by side as text, and become markdown when they
// have ended; one vote by click or key, then the names. What the lab tells before the vote holds no name, so nothing
// here could show one.
(() => {
  const source = document.getElementById("arena-data");
  if (!source) return;
  const data = JSON.parse(source.textContent), place = "/api/v1/arena/battles";
  const [bout, ask, on, turns, votes, after, said] = ["bout", "ask", "on", "turns", "votes", "after", "said"].map((id) => document.getElementById(id));
  const SIDES = ["left", "right"], TITLES = { left: "Left", right: "Right" };
  const CHOSEN = { left: "You found the left answer better.", right: "You found the right answer better.", tie: "You found both as good.", bad: "You found both bad." };
  let battle = data.battle, busy = false, streaming = null, seconds = 0, since = 0;

  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  // Read apart from the page, where nothing runs or loads, and then moved into it.
  const show = (node, html) => node.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  const say = (text, failed = false) => { said.textContent = text; said.classList.toggle("fail", failed); };
  const last = () => battle?.turns.at(-1);
  const isWhole = (turn) => turn.answers.every((one) => one.status === "done");
  const mayVote = () => battle?.state === "open" && !streaming && last().answers.every((one) => one.status !== "waiting") && battle.turns.some(isWhole);

  // The time of a vote counts from when both answers stand, while the page is in view.
  const elapsed = () => seconds + (since ? (performance.now() - since) / 1000 : 0);
  const clock = (goes) => { seconds = goes ? seconds : 0; since = goes && !document.hidden ? performance.now() : 0; };
  document.addEventListener("visibilitychange", () => { if (!mayVote()) return; seconds = elapsed(); since = document.hidden ? 0 : performance.now(); });

  async function call(path, body, method = "POST") {
    let answer;
    try {
      answer = await fetch(`${place}${path}`, { method, headers: { "Content-Type": "application/json", Accept: "application/json" }, ...(method === "POST" ? { body: JSON.stringify(body || {}) } : {}), signal: AbortSignal.timeout(20000) });
    } catch { throw new Error("The lab does not answer. Try again."); }
    if (answer.status === 204) return null;
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 401) throw new Error("You are signed out: sign in again in another window, then try again.");
    if (!answer.ok) throw new Error(told.errors?.[0]?.message || told.detail || `The lab answered ${answer.status}.`);
    return told;
  }
  // One thing at a time; what fails is told and can be tried again.
  async function alone(act) {
    if (busy) return;
    busy = true;
    try { await act(); } catch (error) { say(error.message, true); } finally { busy = false; settle(); }
  }

  // Drawing.
  function draw() {
    turns.replaceChildren(...(battle ? battle.turns.map(exchange) : []));
    settle();
  }
  function exchange(turn, number) {
    const box = make("div", "exchange"), line = make("p", "ask-line"), words = make("b", "pre", turn.prompt), sides = make("div", "sides");
    words.dir = "auto";
    line.append(make("span", "dim small", number ? "Then you asked" : "The question"), words);
    sides.append(...turn.answers.map((one) => panel(one)));
    box.append(line, sides);
    return box;
  }
  function panel(one) {
    const named = battle[one.side], box = make("article", "panel"), head = make("header", "row spread"), state = make("span", "state"), stone = make("span", "stone l");
    const name = named && data.researcher && named.checkpoint ? make("a", "", named.name) : make("b", "", named ? named.name : TITLES[one.side]), body = make("div", "words");
    if (name.href !== undefined) name.href = `/${named.kind === "export" ? "exports" : "checkpoints"}/${encodeURIComponent(named.checkpoint)}`;
    name.dir = body.dir = "auto";
    box.dataset.side = one.side;
    box.setAttribute("aria-label", named ? `${TITLES[one.side]}, by ${named.name}` : `${TITLES[one.side]} answer`);
    if (!named) stone.classList.add(streaming && one.status === "waiting" ? "running" : "waiting");
    stone.textContent = named ? named.run ?? "" : "?";
    if (battle.outcome === one.side) box.classList.add("chosen");
    state.append(stone, " ", name);
    head.append(state, make("span", "small dim told", told(one)));
    if (one.status === "done" && one.html) show(body, one.html);
    else if (one.status === "done") body.append(make("p", "dim", "It said nothing."));
    else if (one.status === "failed") body.append(failed(one));
    else { body.classList.add("pre"); body.textContent = one.text; if (streaming) body.append(make("i", "caret")); }
    box.append(head, body);
    if (one.cut_off) box.append(make("p", "small dim", "Cut off at the length limit."));
    return box;
  }
  function told(one) {
    if (one.status === "done") return one.tokens === null ? "" : `${one.tokens.toLocaleString("en-GB")} token${one.tokens === 1 ? "" : "s"}`;
    return one.status === "failed" ? "failed" : streaming ? "answering" : "";
  }
  function failed(one) {
    const box = make("div", "row"), button = make("button", "btn small", "Try again");
    button.type = "button";
    button.dataset.again = "";
    box.append(make("p", "fail", one.message || "This answer could not be had."), button);
    return box;
  }
  function settle() {
    const open = battle?.state === "open";
    ask.hidden = open;
    votes.hidden = !mayVote();
    after.hidden = battle?.state !== "voted";
    if (battle?.state === "voted") ask.hidden = true;
    on.hidden = !open;
    on.querySelector("button").hidden = on.querySelector(".field").hidden = !open || Boolean(streaming) || !isWhole(last()) || battle.turns.length >= data.turns;
    for (const form of [ask, on]) form.querySelector("button").setAttribute("aria-disabled", String(busy));
  }

  // Streaming. Pieces are appended once a frame; the whole is drawn when a side has ended.
  async function stream() {
    const control = (streaming = new AbortController()), turn = last();
    for (const one of turn.answers) if (one.status !== "done") Object.assign(one, { status: "waiting", text: "", message: "" });
    clock(false);
    draw();
    say("Both answer now.");
    let broken = "The lab broke off. Try again.";
    try {
      const answer = await fetch(`${place}/${battle.id}/answers`, { method: "POST", signal: control.signal, headers: { "Content-Type": "application/json", Accept: "text/event-stream" }, body: "{}" });
      if (!answer.ok) { const problem = await answer.json().catch(() => ({})); throw Object.assign(new Error(problem.detail || `The lab answered ${answer.status}.`), { told: true }); }
      for await (const { event, data: text } of Lab.events(answer.body)) {
        const news = JSON.parse(text);
        const one = turn.answers.find((each) => each.side === news.side);
        if (event === "piece") grow(one, news.text);
        else if (event === "done") { Object.assign(one, { status: "done", html: news.html, tokens: news.tokens, cut_off: news.cut_off }); redraw(one); }
        else if (event === "failed") { Object.assign(one, { status: "failed", message: news.message }); redraw(one); }
      }
    } catch (error) { if (error.name === "AbortError") return; if (error.told) broken = error.message; }
    if (streaming !== control) return;
    streaming = null;
    for (const one of turn.answers) if (one.status === "waiting") Object.assign(one, { status: "failed", message: broken });
    draw();
    if (mayVote()) { clock(true); say(isWhole(turn) ? "Both have answered. Which is better?" : "An answer is missing: try it again, or vote on what stands before it."); }
    else say("An answer is missing: try it again, or leave this battle.", true);
  }
  const shown = (one) => turns.lastElementChild?.querySelector(`[data-side="${one.side}"]`);
  const redraw = (one) => shown(one)?.replaceWith(panel(one));
  const waiting = new Map();
  function grow(one, text) {
    one.text += text;
    if (!waiting.size) requestAnimationFrame(() => {
      for (const [each, words] of waiting) { const body = shown(each)?.querySelector(".words.pre"); if (body) body.insertBefore(document.createTextNode(words), body.querySelector(".caret")); }
      waiting.clear();
    });
    waiting.set(one, (waiting.get(one) || "") + text);
  }

  const begin = () => alone(async () => {
    const field = ask.elements.prompt;
    if (!field.value.trim()) return field.focus();
    battle = await call("", { prompt: field.value });
    field.value = "";
    stream();
    return undefined;
  });
  const askOn = () => alone(async () => {
    const field = on.elements.prompt;
    if (!field.value.trim()) return field.focus();
    battle = await call(`/${battle.id}/turns`, { prompt: field.value });
    field.value = "";
    stream();
    turns.lastElementChild.scrollIntoView({ block: "nearest" });
    return undefined;
  });
  const vote = (outcome) => alone(async () => {
    if (!mayVote()) return;
    battle = await call(`/${battle.id}/vote`, { outcome, seconds: Math.round(Math.min(86400, elapsed()) * 10) / 10 });
    clock(false);
    draw();
    const spoke = SIDES.map((side) => `${TITLES[side]}: ${battle[side].name}.`).join(" ");
    say(`${CHOSEN[battle.outcome]} ${spoke}${battle.counts ? "" : " An answer told its model's name, so the ratings leave this vote out."}`);
    after.hidden = false;
    after.querySelector("button").focus({ preventScroll: true });
  });
  const leave = () => alone(async () => { await call(`/${battle.id}/leave`); fresh("Left without a vote: nobody is told who spoke."); });
  function fresh(text) {
    streaming?.abort();
    streaming = battle = null;
    draw();
    say(text);
    ask.elements.prompt.focus();
  }

  ask.addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  on.addEventListener("submit", (event) => { event.preventDefault(); askOn(); });
  for (const form of [ask, on]) form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) { event.preventDefault(); form.requestSubmit(); } });
  bout.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.vote) vote(button.dataset.vote);
    else if ("again" in button.dataset && !streaming) stream();
    else if ("leave" in button.dataset) leave();
    else if ("next" in button.dataset) fresh("");
    else if ("draw" in button.dataset) alone(async () => {
      const { prompt } = await call("/suggestion", null, "GET");
      if (prompt) ask.elements.prompt.value = prompt; else say("No dataset of this lab holds prompts yet: ask something of your own.");
      ask.elements.prompt.focus();
    });
  });

  // Up and down scroll a battle that is longer than the window; they vote where nothing is left to scroll to.
  const inView = () => { const top = turns.lastElementChild.getBoundingClientRect().top, bottom = votes.getBoundingClientRect().bottom; return top >= 0 && bottom <= innerHeight; };
  const KEYS = { 1: "left", 2: "tie", 3: "bad", 4: "right", ArrowLeft: "left", ArrowDown: "tie", ArrowUp: "bad", ArrowRight: "right" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.isComposing || Lab.inField(event.target) || !KEYS[event.key] || !mayVote()) return;
    if (event.key.length === 1 && !Lab.letters()) return;
    if (event.target.closest(".scroll-x, pre, .formula") || (["ArrowUp", "ArrowDown"].includes(event.key) && !inView())) return;
    event.preventDefault();
    vote(KEYS[event.key]);
  });

  draw();
  if (battle?.state === "open" && last().answers.some((one) => one.status === "waiting")) stream();
  else if (mayVote()) { clock(true); say("Both have answered. Which is better?"); }
})();
