// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { readEvents } from "../src/sse.ts";

function bodyOf(chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

async function eventsOf(chunks: Uint8Array[]): Promise<string[]> {
  const events: string[] = [];
  for await (const data of readEvents(bodyOf(chunks))) events.push(data);
  return events;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const cases: [string, string, string[]][] = [
  ["nothing", "", []],
  ["one event", "data: a\n\n", ["a"]],
  ["no space after the colon", "data:a\n\n", ["a"]],
  ["only the first space is taken off", "data:  a\n\n", [" a"]],
  ["lines are joined", "data: a\ndata: b\n\n", ["a\nb"]],
  ["an empty line of data", "data\ndata:\n\n", ["\n"]],
  ["CRLF", "data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", ["a\nb", "c"]],
  ["CR", "data: a\r\rdata: b\r\r", ["a", "b"]],
  ["comments and other fields", ": hi\nevent: x\nid: 1\nretry: 5\nother\ndata: a\n\n", ["a"]],
  ["no data, no event", "event: x\n\n: c\n\n\n", []],
  ["a cut event is dropped", "data: a\n\ndata: b", ["a"]],
  ["a cut event with its line is dropped", "data: a\n\ndata: b\n", ["a"]],
  ["a byte order mark", "\ufeffdata: a\n\n", ["a"]],
  ["many bytes a character", "data: é漢😀\n\ndata: 🇨🇭\n\n", ["é漢😀", "🇨🇭"]],
];

for (const [name, text, expected] of cases) {
  test(`${name}: whole, by byte and cut at every place`, async () => {
    const all = bytes(text);
    assert.deepEqual(await eventsOf([all]), expected);
    assert.deepEqual(await eventsOf([...all].map((byte) => Uint8Array.of(byte))), expected);
    for (let at = 0; at <= all.length; at++) {
      assert.deepEqual(await eventsOf([all.slice(0, at), new Uint8Array(), all.slice(at)]), expected);
    }
  });
}

test("leaving early cancels the body", async () => {
  let cancelled = false;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      controller.enqueue(bytes("data: a\n\n"));
    },
    cancel() {
      cancelled = true;
    },
  });
  for await (const data of readEvents(body)) {
    assert.equal(data, "a");
    break;
  }
  assert.ok(cancelled);
});

test("a line without end is refused", async () => {
  let sent = 0;
  const piece = bytes("x".repeat(1 << 20));
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      sent++;
      controller.enqueue(piece);
    },
  });
  await assert.rejects(async () => {
    for await (const data of readEvents(body)) assert.fail(data);
  }, /too long/);
  assert.ok(sent < 10);
});

test("a lost connection is an error", async () => {
  let first = true;
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (first) controller.enqueue(bytes("data: a\n\n"));
      else controller.error(new TypeError("lost"));
      first = false;
    },
  });
  const seen: string[] = [];
  await assert.rejects(async () => {
    for await (const data of readEvents(body)) seen.push(data);
  }, /lost/);
  assert.deepEqual(seen, ["a"]);
});
