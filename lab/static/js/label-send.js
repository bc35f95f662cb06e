// Handing in. A ranking is first put into this browser's outbox under a name of its own, then sent, and leaves the
// outbox only when the lab has answered. So a lost connection, a lost answer, a reload, a double click or a second tab
// neither loses a ranking nor counts it twice: the lab knows the name of what it has.
window.Outbox = (labeler, project) => {
  const prefix = `hand:${labeler}:${project}:`;
  // Private windows may refuse to keep anything; what is here lasts as long as the page.
  const unkept = new Map();

  function entries() {
    const found = [...unkept.values()];
    try {
      for (let at = 0; at < localStorage.length; at++) {
        const key = localStorage.key(at);
        if (!key.startsWith(prefix)) continue;
        try { found.push({ ...JSON.parse(localStorage.getItem(key)), submission: key.slice(prefix.length) }); } catch { localStorage.removeItem(key); }
      }
    } catch { /* only what is in memory */ }
    return found.sort((a, b) => a.at - b.at);
  }
  function put(task, body) {
    const submission = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    write({ task, body, at: Date.now(), submission });
  }
  function drop(submission) {
    unkept.delete(submission);
    try { localStorage.removeItem(prefix + submission); } catch { /* it was not kept */ }
  }

  async function post(path, body) {
    let answer;
    try {
      answer = await fetch(`/api/v1/labeling/${path}`, { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body || {}), signal: AbortSignal.timeout(20000) });
    } catch { throw Object.assign(new Error("The lab does not answer."), { lost: true }); }
    if (answer.status === 204) return null;
    const told = await answer.json().catch(() => null);
    // Without a whole answer nobody knows what became of the request.
    if (answer.status === 401) throw Object.assign(new Error("You are signed out."), { lost: true, status: 401 });
    if (told === null || answer.status >= 500 || answer.status === 429) throw Object.assign(new Error(`The lab answered ${answer.status}.`), { lost: true, status: answer.status });
    if (!answer.ok) throw Object.assign(new Error(told.errors?.[0]?.message || told.detail || `The lab answered ${answer.status}.`), { status: answer.status });
    return told;
  }

  const waiting = () => entries().filter((entry) => !entry.refused);
  const held = () => entries().filter((entry) => entry.refused);
  function write({ submission, ...entry }) {
    // Each under a key of its own: two tabs that write at once do not write over each other.
    try { localStorage.setItem(prefix + submission, JSON.stringify(entry)); } catch { unkept.set(submission, { ...entry, submission }); }
  }

  // Sends all in the order in which they were handed in; answers what the lab refused, which stays here with the reason
  // until somebody sends it again or has a copy of it. Throws when the lab is lost.
  async function flush(again = false) {
    const refused = [];
    for (const entry of again ? entries() : waiting()) {
      try {
        await post(`tasks/${entry.task}/ranking`, { ...entry.body, submission: entry.submission });
        drop(entry.submission);
      } catch (error) {
        if (error.lost) throw error;
        refused.push(error.message);
        write({ ...entry, refused: error.message });
      }
    }
    return refused;
  }
  return { put, post, flush, waiting, held, drop, owns: (key) => key?.startsWith(prefix) };
};
