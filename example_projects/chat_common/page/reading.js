// Reads one answer to its end, and says in words what is wrong where something is.

import { ReadError } from "./streams/reader.js";

// `reader` is one of `read()`; `text` is called with each piece.
// Returns { eos, problem }: how the stream ended, or what is wrong with the connection; neither for a reader that left.
export async function readAnswer(reader, text) {
  try {
    for await (const event of reader) {
      if (event.name === "message") text(event.data);
    }
    return { eos: reader.end };
  } catch (error) {
    if (!(error instanceof ReadError)) throw error;
    return { problem: said(error) };
  }
}

// A stream that cannot be continued says why.
function said(error) {
  if (error.kind === "superseded") return "The answer goes on in another window.";
  if (error.kind === "unreachable") return "The server cannot be reached. Is it running?";
  if (error.kind === "lost") return "The connection was lost before the end.";
  if (error.resuming && typeof error.detail === "string") return `The answer cannot be continued: ${error.detail}.`;
  return `The server refused the question (status ${error.status}).`;
}
