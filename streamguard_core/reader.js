// Reads a guarded stream of server-sent events in a page: comes back when the connection breaks, acknowledges, stops.
//
//   import { read } from "/streams/reader.js";
//
//   const reader = read("/chat", { body: { prompt }, streams: "/streams" });
//   for await (const event of reader) show(event.data);      // event: { name, data, id }
//   reader.end;                                              // the data of `eos`: { cause, committed, ... }
//
// `EventSource` does the coming back for a GET, and neither acknowledges nor stops.

const FIRST_WAIT = 500;       // ms before the first try to come back
const LONGEST_WAIT = 5000;
const STOP_PATIENCE = 2000;   // ms for the server to hear of a stop
const ACKNOWLEDGE_PATIENCE = 5000;
const MOST_CHUNKS = 64;       // are collected before one acknowledgement

export class ReadError extends Error {
  // `kind`: "refused" (with `status`, and `detail` if the server gave one), "unreachable", "lost", "superseded".
  constructor(kind, text, more = {}) {
    super(text);
    this.name = "ReadError";
    Object.assign(this, { kind, resuming: false, ...more });
  }
}

// Begins to read when it is iterated. Options, all of them optional:
//   body         sent as JSON, by POST; without one it is a GET
//   headers      further headers, also of acknowledgements and of the stop
//   streams      where the server has mounted `Acknowledge` or `Resume`; without it there is no stop and no acknowledging
//   place        where to begin: {} for a new stream, { id } to go on with one; its id moves on as events come
//   patience     ms to keep trying to come back (30000)
//   acknowledge  false for a reader that does not
//   signal       ends the reading, as a reader that leaves
//   opened(streamId), lost(tries)   are called when a connection stands, and when it broke
export function read(path, options = {}) {
  return new Reader(path, options);
}

class Reader {
  #path; #options; #acknowledgements;
  #aborter = new AbortController();
  #connected = false;

  constructor(path, options) {
    this.#path = path;
    this.#options = { patience: 30000, headers: {}, ...options };
    this.place = options.place ?? {};   // what a page keeps over a reload
    this.streamId = null;
    this.end = null;
    this.#acknowledgements = new Acknowledgements((offset) => this.#post(`acknowledged/${offset}`, {
      keepalive: true, signal: AbortSignal.timeout(ACKNOWLEDGE_PATIENCE) }));
  }

  // Stop is authority: the server ends the stream as its reader's wish, and says so in `eos`. Where it cannot be told,
  // leaving does. Returns whether it was told.
  async stop() {
    let told = false;
    try {
      await this.#acknowledgements.flush();
      told = (await this.#post("stop", { signal: AbortSignal.timeout(STOP_PATIENCE) }))?.ok ?? false;
    } catch { /* not told */ }
    // An end that has been said comes over the connection that is open, if there is one.
    if (!told || !this.#connected) this.#aborter.abort();
    return told;
  }

  async *[Symbol.asyncIterator]() {
    const flush = () => this.#acknowledgements.flush();
    addEventListener("pagehide", flush);
    const { signal } = this.#options;
    const ended = signal ? AbortSignal.any([signal, this.#aborter.signal]) : this.#aborter.signal;
    try {
      yield* this.#connections(ended);
    } catch (error) {
      if (error instanceof ReadError || !ended.aborted) throw error;
    } finally {
      removeEventListener("pagehide", flush);
      flush();
      this.#aborter.abort();
    }
  }

  // One connection after the other, until the stream has ended.
  async *#connections(ended) {
    let lostAt = null;
    for (let tries = 0; !this.end; tries++) {
      const { patience, lost } = this.#options;
      const resuming = this.place.id !== undefined;
      let reached = false;
      // A connection that hangs on a lost network says nothing for minutes: it is given up at once.
      const connection = new AbortController();
      const leave = () => connection.abort();
      addEventListener("offline", leave);
      try {
        const response = await this.#connect(AbortSignal.any([ended, connection.signal]), resuming);
        for await (const event of this.#events(response)) {
          reached = true;
          yield event;
        }
      } catch (error) {
        if (error instanceof ReadError || ended.aborted) throw error;
        if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
      } finally {
        this.#connected = false;
        removeEventListener("offline", leave);
        connection.abort();   // one that the page has stopped iterating is let go
      }
      if (this.end) return;
      if (reached) { lostAt = null; tries = 0; }
      if (this.place.id === undefined) {
        throw this.streamId ? new ReadError("lost", "the connection was lost before the end")
                            : new ReadError("unreachable", "the server cannot be reached");
      }
      lostAt ??= Date.now();
      if (Date.now() - lostAt > patience) throw new ReadError("lost", "the connection was lost before the end");
      lost?.(tries + 1);
      const wait = Math.min(LONGEST_WAIT, (this.place.retry ?? FIRST_WAIT) * 2 ** tries);
      await pause(wait * (0.5 + Math.random() / 2), ended);
      ended.throwIfAborted();
    }
  }

  async #connect(signal, resuming) {
    const { body, streams, acknowledge } = this.#options;
    const headers = { accept: "text/event-stream", ...this.#options.headers };
    if (resuming) headers["last-event-id"] = this.place.id;
    if (streams !== undefined && acknowledge !== false) headers["streamguard-acknowledge"] = "1";
    const request = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["content-type"] = "application/json";
      Object.assign(request, { method: "POST", body: JSON.stringify(body) });
    }
    const response = await fetch(this.#path, request);
    const streamId = response.headers.get("streamguard-stream-id");
    if (response.status === 204 && resuming) {
      this.end = {};                 // everything was read before
    } else if (!streamId) {
      const { detail } = await response.json().catch(() => ({}));
      throw new ReadError("refused", `the server refused the stream (status ${response.status})`,
                          { status: response.status, detail, resuming });
    } else {
      this.streamId = streamId;
      this.#connected = true;
      this.#acknowledgements.asked(response.headers.get("streamguard-acknowledge"));
      this.#options.opened?.(streamId);
    }
    return response;
  }

  async *#events(response) {
    if (response.status === 204) return;
    for await (const event of parsed(response.body, this.place)) {
      if (event.name === "superseded") throw new ReadError("superseded", "another reader has this stream");
      if (event.name === "eos") {
        this.end = JSON.parse(event.data);
        this.#acknowledgements.has(this.end.committed, true);
        return;
      }
      yield event;
      // Asked for more: the page has this one.
      if (event.id !== null) this.#acknowledgements.has(offsetOf(event.id));
    }
  }

  #post(what, more) {
    const { streams, headers } = this.#options;
    if (streams === undefined || !this.streamId) return Promise.resolve(null);
    return fetch(`${streams}/${encodeURIComponent(this.streamId)}/${what}`, { method: "POST", headers, ...more });
  }
}

// Tells the server what the page has: the first at once, then what came meanwhile, together; one request at a time.
class Acknowledgements {
  #send; #delay = null; #offset = 0; #told = 0; #toldAt = -Infinity; #timer = null; #sending = null;

  constructor(send) { this.#send = send; }

  // The server asks for them, and says how many ms may be collected; null when it does not ask.
  asked(delay) { this.#delay = delay === null ? null : Number(delay); }

  has(offset, now = false) {
    if (!(offset > this.#offset)) return;
    this.#offset = offset;
    if (this.#delay === null) return;
    const wait = this.#toldAt + this.#delay - performance.now();
    if (now || wait <= 0 || offset - this.#told >= MOST_CHUNKS) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), wait);
  }

  // Resolves when the server has answered for everything so far, or cannot be reached.
  flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#delay !== null && this.#offset > this.#told) this.#sending ??= this.#tell();
    return this.#sending ?? Promise.resolve();
  }

  async #tell() {
    try {
      while (this.#delay !== null && this.#offset > this.#told) {
        const offset = this.#offset;
        this.#toldAt = performance.now();
        const answer = await this.#send(offset);
        if (answer === null || !answer.ok) this.#delay = null;   // it does not take them, or not any more
        else this.#told = offset;
      }
    } catch {
      // Not reached: what comes next says this as well.
      if (this.#delay !== null) this.#timer ??= setTimeout(() => this.flush(), Math.max(this.#delay, 100));
    } finally {
      this.#sending = null;
    }
  }
}

// The commit offset in the id of an event: the number behind the stream's name.
function offsetOf(id) {
  const number = id.slice(id.lastIndexOf(":") + 1);
  return /^\d{1,15}$/.test(number) ? Number(number) : 0;
}

// The events of one response body. `id` and `retry` are kept in `place`, as they come.
async function* parsed(body, place) {
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
  let id = null;
  const data = [];
  for (const line of block.split(/\r\n|\n|\r/)) {
    const at = line.indexOf(":");
    if (at === 0) continue;                              // a comment: the server is alive
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "event") name = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) place.retry = Number(value);
  }
  if (id !== null && id.includes(":")) place.id = id;    // only such an id names its stream: that one can be resumed
  return data.length ? { name, data: data.join("\n"), id } : null;
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
