// sse.ts - reads a text/event-stream body as an async generator of event data.
//
// The format is that of the WHATWG HTML standard, 9.2.6: lines end in LF, CRLF or CR; `data:` lines
// of one event are joined by LF; an empty line ends the event; lines that open with a colon are
// comments. An event that the end of the stream cuts off is dropped, as the standard asks.
// Other fields (event, id, retry) carry nothing that the page uses.
// SPDX-License-Identifier: Apache-2.0

/** The longest line taken. The server's pieces are far shorter; this bounds what a fault can fill. */
const LINE_LIMIT = 1 << 22;

/** Yields the data of each event. Throws what reading the body throws (abort, lost connection). */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // removes a leading BOM, joins characters cut by chunks
  let rest = "";
  let data: string[] = [];
  let skipFeed = false; // the last chunk ended in CR: an LF at the start of the next belongs to it
  try {
    for (;;) {
      const { done, value } = await reader.read();
      let text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      if (skipFeed && text !== "") {
        if (text.startsWith("\n")) text = text.slice(1);
        skipFeed = false;
      }
      if (text.endsWith("\r")) skipFeed = true;
      const lines = text.split(/\r\n|\r|\n/);
      lines[0] = rest + (lines[0] ?? "");
      rest = lines.pop() ?? "";
      if (rest.length > LINE_LIMIT) throw new Error("The answer has a line that is too long.");
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (line === "data") {
          data.push("");
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
        }
      }
      if (done) return;
    }
  } finally {
    // Also when the consumer leaves early: the server then learns that nobody listens.
    await reader.cancel().catch(() => undefined);
  }
}
