import { readAnswer } from "./reading.js";
import { read } from "./streams/reader.js";

const $ = (id) => document.getElementById(id);
const messages = [];      // the conversation, as the engine gets it
let answer = null;        // the one that is being read: { reader, streamId, place, text, state, stopping }
const PATIENCE = 30000;   // ms to come back to an answer whose connection broke

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;   // never HTML: a model wrote it
  return element;
}

function addTurn(role, text) {
  $("intro").hidden = true;
  const turn = make("div", `turn ${role}`);
  turn.append(make("div", "said", text));
  $("talk").append(turn);
  $("talk").scrollTop = $("talk").scrollHeight;
  return turn;
}

// Changes the conversation, and follows its end unless the reader has scrolled up.
function following(change) {
  const talk = $("talk");
  const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 48;
  change();
  if (atEnd) talk.scrollTop = talk.scrollHeight;
}

// -- one answer ------------------------------------------------------------------------------------

async function ask(question) {
  messages.push({ role: "user", content: question });
  addTurn("user", question);
  await run({ place: {}, text: "" });
}

// Runs one answer: a new one, or one that a reload interrupted.
async function run(mine) {
  const turn = addTurn("assistant busy", mine.text);
  const said = turn.firstChild;
  const live = make("div", "live");
  turn.append(live);
  const reader = read("chat", {
    body: { messages: messages.slice(-100) },
    streams: "streams",
    place: mine.place,
    patience: PATIENCE,
    opened(streamId) { mine.streamId = streamId; mine.state = mine.text ? "typing" : "thinking"; },
    lost(tries) { mine.state = "lost"; mine.tries = tries; },
  });
  Object.assign(mine, { reader, since: performance.now(), pieces: 0, state: "connecting" });
  answer = mine;
  showButton();
  const watch = setInterval(() => { live.textContent = progress(mine); }, 100);
  const { eos, problem } = await readAnswer(reader, (piece) => {
    if (!mine.pieces++) mine.first = performance.now();
    mine.state = "typing";
    mine.text += piece;
    following(() => { said.textContent = mine.text; });
  });
  clearInterval(watch);
  live.remove();
  answer = null;
  showButton();
  turn.classList.remove("busy");
  const unheard = mine.stopping && !mine.streamId ? "Stopped before the server had answered. If it had begun, the list has the receipt." : "";
  await conclude(turn, mine, { eos, problem: problem || unheard });
}

// What stands under an answer that has ended: what went wrong, if anything did, and its receipt.
async function conclude(turn, mine, { eos, problem }) {
  if (mine.text) messages.push({ role: "assistant", content: mine.text });
  else { messages.pop(); turn.firstChild.append(make("span", "quiet", "no answer")); }
  const end = make("div", "end");
  following(() => turn.append(end));
  if (problem) following(() => end.append(make("div", "error", problem)));
  if (mine.streamId) await showReceipt(end, mine.streamId, eos);
  await refresh();
}

// What goes on right now, in words.
function progress(mine) {
  const now = performance.now();
  const waited = `${((now - mine.since) / 1000).toFixed(1)} s`;
  if (mine.stopping) return "stopping \u2026";
  if (mine.state === "lost") {
    return navigator.onLine ? `connection lost, coming back (${mine.tries}) \u2026`
                            : "you are offline; the answer goes on when you are back \u2026";
  }
  if (mine.state === "connecting") return `sending \u2026 ${waited}`;
  if (mine.state === "thinking") return `thinking \u2026 ${waited}`;
  const seconds = (now - mine.first) / 1000;
  const pace = mine.pieces > 1 && seconds > 0.2 ? ` \u00b7 ${((mine.pieces - 1) / seconds).toFixed(0)} per second` : "";
  return `${mine.pieces} chunks${pace} \u00b7 ${waited}`;
}

// Stop is authority: the server ends the stream and says so in `eos`. If it cannot be told, leaving does.
async function stop() {
  const mine = answer;
  if (!mine || mine.stopping) return;
  mine.stopping = true;
  showButton();
  await mine.reader.stop();
}

// -- a reload --------------------------------------------------------------------------------------

const KEPT = "streamguard-chat";

// A page that goes away leaves what the next one needs; the server keeps the answer for a moment.
addEventListener("pagehide", () => {
  const { place, text, streamId, stopping } = answer ?? { stopping: true };
  const current = stopping ? null : { place, text, streamId };
  sessionStorage.setItem(KEPT, JSON.stringify({ messages, current }));
});

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  sessionStorage.removeItem(KEPT);
  if (!kept) return;
  for (const message of kept.messages) {
    messages.push(message);
    addTurn(message.role, message.content);
  }
  if (!kept.current) return;
  if (kept.current.place.id) run(kept.current);
  else conclude(addTurn("assistant", kept.current.text), kept.current, { problem: "The answer ended when the page was reloaded." });
}

// -- statistics ------------------------------------------------------------------------------------

async function count() {
  let counted;
  try {
    counted = await (await fetch("statistics")).json();
  } catch { return; }
  const ended = Object.entries(counted.ended).map(([category, many]) => `${many} ${category}`).join(", ") || "none";
  const facts = { running: counted.running, ended, "tokens paid for": counted.output,
                  "never generated": `at most ${counted.prevented}` };
  $("statistics").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [
    make("dt", "", name), make("dd", "", String(value))]));
}

// -- receipts --------------------------------------------------------------------------------------

const MEANING = {
  COMPLETED: "The answer is complete.",
  USER_CANCEL: "You pressed Stop.",
  CLIENT_DISCONNECT: "The reader left.",
  PRODUCER_ERROR: "The engine failed.",
  TRUNCATED: "The engine broke off in the middle of the answer.",
  TIMEOUT_CONNECT: "The engine could not be reached in time.",
  TIMEOUT_FIRST_TOKEN: "The engine did not begin in time.",
  TIMEOUT_IDLE: "The engine fell silent.",
  CONSUMER_STALLED: "The reader took nothing for too long.",
  SHUTDOWN: "The server was stopped.",
  CRASHED: "The server was killed; this was noted at its next start.",
};

async function showReceipt(end, streamId, eos) {
  const line = make("div", "", "waiting for the receipt \u2026");
  following(() => end.append(line));
  for (let attempt = 0; attempt < 20; attempt++) {
    let response;
    try {
      response = await fetch(`receipts/${encodeURIComponent(streamId)}`);
    } catch { break; }
    const receipt = response.ok ? await response.json() : { sealed: false };
    if (receipt.sealed) {
      following(() => line.replaceChildren(...describe(receipt), full(receipt)));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  const why = (eos && eos.error) || "";
  line.textContent = `${why} The receipt is not here yet; it is in the list when the server is back.`.trim();
}

function duration(receipt, to) {
  const nanoseconds = (receipt.instants || {})[to];
  return nanoseconds === undefined ? "\u2013" : `${(nanoseconds / 1e9).toFixed(2)} s`;
}

// Unknown is never shown as zero, and an estimate never as a count.
function tokens(receipt) {
  const count = receipt.output || {};
  if (count.value === undefined || count.value === null) return "tokens unknown";
  return count.source.startsWith("provider") ? `${count.value} tokens` : `about ${count.value} tokens`;
}

function describe(receipt) {
  let meaning = MEANING[receipt.cause] || receipt.detail || "";
  if (receipt.category === "producer" && receipt.detail) {
    meaning = `${meaning.replace(/\.$/, ":")} ${receipt.detail.replace(/^\w+: /, "")}.`;
  }
  const facts = [tokens(receipt)];
  if (receipt.produced !== undefined) {
    facts.push(`${receipt.produced} chunks produced, ${receipt.consumed} delivered`);
    if (receipt.produced) facts.push(`first after ${duration(receipt, "first_chunk_ns")}`);
    facts.push(`in all ${duration(receipt, "sealed_ns")}`);
  }
  if (receipt.prevented && receipt.prevented.upper) {
    facts.push(`at most ${receipt.prevented.upper} never generated`);
  }
  if (receipt.late) facts.push(`${receipt.late} refused as late`);
  if (receipt.finish) facts.push(`finish ${receipt.finish}`);
  if (receipt.close === "confirmed") facts.push("connection to the engine closed");
  if (receipt.close === "unconfirmed") facts.push("close of the connection to the engine not confirmed");
  return [make("span", `cause ${receipt.category}`, receipt.cause), " ", make("span", "word", meaning),
          make("div", "facts", facts.join(" \u00b7 "))];
}

function full(receipt) {
  const details = make("details");
  details.append(make("summary", "", "the whole receipt"), make("pre", "", JSON.stringify(receipt, null, 2)));
  return details;
}

async function refresh() {
  count();
  let receipts;
  try {
    receipts = await (await fetch("receipts")).json();
  } catch { return; }
  $("receipts").replaceChildren(...receipts.map((receipt) => {
    const item = make("li");
    const when = make("time", "", new Date(receipt.opened_us / 1000).toLocaleTimeString());
    when.title = receipt.stream_id;
    item.append(when, " ");
    if (receipt.sealed) item.append(...describe(receipt));
    else item.append(make("span", "quiet", "open: it runs, or its server was killed"));
    return item;
  }));
  if (!receipts.length) $("receipts").append(make("li", "quiet", "None yet."));
}

// -- the form --------------------------------------------------------------------------------------

function showButton() {
  const button = $("button");
  button.textContent = !answer ? "Send" : answer.stopping ? "Stopping \u2026" : "Stop";
  button.classList.toggle("stop", answer !== null);
  button.disabled = answer !== null && answer.stopping === true;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answer) { stop(); $("prompt").focus(); return; }
  const question = $("prompt").value.trim();
  if (!question) return;
  $("prompt").value = "";
  ask(question);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!answer) $("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
$("intro").addEventListener("click", (event) => {
  if (event.target.tagName === "BUTTON") { ask(event.target.textContent); $("prompt").focus(); }
});

fetch("engine").then((response) => response.json()).then((engine) => {
  $("engine").textContent = `${engine.name} \u00b7 ${engine.model} \u00b7 ${engine.server}`;
  $("admin").hidden = !engine.admin;
  if (engine.admin) $("admin").href = engine.admin;
}).catch(() => { $("engine").textContent = "the server cannot be reached"; });
refresh();
restore();
// Live as long as somebody looks.
setInterval(() => { if (!document.hidden) count(); }, 1000);
