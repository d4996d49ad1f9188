// Reads one stream of server-sent events over a POST, and comes back with `Last-Event-ID` when the connection
// breaks: what EventSource does for a GET.

const FIRST_WAIT = 500;       // ms before the first try to come back
const LONGEST_WAIT = 5000;

// The events of one response body. `id` and `retry` are kept in `place`, as they come.
async function* events(body, place) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    // A CR at the end may be half of a CRLF.
    const held = rest.endsWith("\r") ? 1 : 0;
    const blocks = rest.slice(0, rest.length - held).split(/\r\n\r\n|\n\n|\r\r/);
    rest = blocks.pop() + rest.slice(rest.length - held);
    for (const block of blocks) {
      const event = parse(block, place);
      if (event) yield event;
    }
  }
}

function parse(block, place) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r\n|\n|\r/)) {
    const at = line.indexOf(":");
    if (at === 0) continue;                              // a comment: the server is alive
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "event") name = value;
    else if (field === "id" && !value.includes("\0")) place.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) place.retry = Number(value);
  }
  return data.length ? { name, data: data.join("\n") } : null;
}

// Waits, but not while the network is back.
function pause(ms, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      removeEventListener("online", wake);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, ms);
    addEventListener("online", wake);
    signal.addEventListener("abort", wake);
  });
}

// Reads an answer to its end. `tell` has: opened(streamId), text(piece), lost(tries).
// `place` is where to begin: {} for a new answer, { id } to go on with one; its id moves on as events come. `patience`: ms to keep trying.
// Returns { eos, problem }: how the stream ended, or what is wrong with the connection.
export async function readAnswer(path, body, { place, patience, signal, tell }) {
  let lostAt = null;
  for (let tries = 0; ; tries++) {
    let refusal = null;
    // A connection that hangs on a lost network says nothing for minutes: it is given up at once.
    const connection = new AbortController();
    const leave = () => connection.abort();
    addEventListener("offline", leave);
    try {
      const headers = { "content-type": "application/json", accept: "text/event-stream" };
      if (place.id) headers["last-event-id"] = place.id;
      const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body),
                                           signal: AbortSignal.any([signal, connection.signal]) });
      const streamId = response.headers.get("streamguard-stream-id");
      if (!streamId) refusal = await said(response, place);
      else tell.opened(streamId);
      for await (const event of streamId ? events(response.body, place) : []) {
        lostAt = null;
        tries = 0;
        if (event.name === "eos") return { eos: JSON.parse(event.data) };
        if (event.name === "superseded") return { problem: "The answer goes on in another window." };
        if (event.name === "message") tell.text(event.data);
      }
    } catch (error) {
      if (signal.aborted) return {};
    } finally {
      removeEventListener("offline", leave);
    }
    if (refusal) return { problem: refusal };
    if (!place.id) {
      return { problem: tries ? "The connection was lost before the end." : "The server cannot be reached. Is it running?" };
    }
    lostAt ??= Date.now();
    if (Date.now() - lostAt > patience) return { problem: "The connection was lost before the end." };
    tell.lost(tries + 1);
    const wait = Math.min(LONGEST_WAIT, (place.retry ?? FIRST_WAIT) * 2 ** tries);
    await pause(wait * (0.5 + Math.random() / 2), signal);
    if (signal.aborted) return {};
  }
}

// What a refusal says; a stream that cannot be continued says why.
async function said(response, place) {
  const answer = await response.json().catch(() => ({}));
  if (place.id && typeof answer.detail === "string") return `The answer cannot be continued: ${answer.detail}.`;
  return `The server refused the question (status ${response.status}).`;
}
