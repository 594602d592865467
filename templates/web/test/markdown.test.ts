// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromMarkdown } from "mdast-util-from-markdown";
import type { Block } from "../src/markdown.ts";
import { costlyRuns, GrowingMarkdown, parseBlocks, RUN_LIMIT } from "../src/markdown.ts";

/** Blocks without positions, which differ where a block was parsed apart. */
function bare(blocks: readonly Block[]): unknown {
  return JSON.parse(
    JSON.stringify(blocks, (key, value: unknown) => (key === "position" ? undefined : value)),
  );
}

/** A small generator with a seed, so that a failure can be repeated. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

// Right after an indented code block micromark takes "2. y" and an empty item for a paragraph that
// they cannot interrupt; parsed apart they are lists, as CommonMark has it. The seed below meets none.
const SNIPPETS = [
  "word", " ", "\n", "\n\n", "  ", "    ", "\t", "- a", "\n- b", "\n  c", "1. x", "\n1. y", "> q", "\n> r", "***",
  "---", "===", "\n***b***", "# h", "\n## i", "```", "\n```\n", "```js\ncode\n", "~~~", "\n~~~~\n", "`x`", "**s**",
  "*e*", "_u_", "[l](http://a.b)", "![i](http://a.b/c.png)", "| a | b |\n|---|:-:|\n| c | d |", "\n| e |", "<b>",
  "<!-- c -->", "<div>\n", "</div>", "- [ ] t", "\n- [x] u", "~~d~~", "http://x.y/z", "www.a.org", "a@b.co", "\\", "&amp;",
  "\n\n\n", "+ p", "\n    code", "\n\n    code", "* * *", "\n   ", "1) z", "\n\n- far", "é漢😀", "!", "[", "]", "(", ")",
  "<", ">", "|", "\n|", "\n---\n", "\n===\n", "````\n```\n````\n",
];

test("a text that grows in any steps ends as the text parsed at once", () => {
  const random = generator(20261123);
  for (let round = 0; round < 200; round++) {
    let text = "";
    for (let n = 3 + random(25); n > 0; n--) text += SNIPPETS[random(SNIPPETS.length)]!;
    const expected = bare(parseBlocks(text));
    const growing = new GrowingMarkdown();
    let blocks: Block[] = [];
    for (let at = 0; at < text.length; ) {
      at = Math.min(text.length, at + 1 + random(round % 3 === 0 ? 1 : 8));
      blocks = growing.update(text.slice(0, at));
      if (random(12) === 0) assert.deepEqual(bare(blocks), bare(parseBlocks(text.slice(0, at))), JSON.stringify(text.slice(0, at)));
    }
    assert.deepEqual(bare(blocks), expected, JSON.stringify(text));
    assert.deepEqual(bare(growing.update(text, true)), expected, JSON.stringify(text));
  }
});

test("finished blocks keep their identity while the text grows", () => {
  const growing = new GrowingMarkdown();
  const first = growing.update("# one\n\ntwo\n\nthree\n\n");
  const later = growing.update("# one\n\ntwo\n\nthree\n\nfour\n\nfive");
  assert.equal(later.length, 5);
  assert.equal(later[0]!.node, first[0]!.node);
  assert.equal(later[1]!.node, first[1]!.node);
});

test("an open fence grows without a new parse, and closes", () => {
  const growing = new GrowingMarkdown();
  growing.update("text\n\n```c\nint a;\n");
  const started = performance.now();
  let text = "text\n\n```c\nint a;\n";
  for (let line = 0; line < 5000; line++) {
    text += `int a${line};\n`;
    growing.update(text);
  }
  const open = growing.update(text);
  assert.equal(open.length, 2);
  const node = open[1]!.node;
  assert.ok(node.type === "code" && node.value.endsWith("int a4999;") && node.lang === "c");
  text += "```\nafter";
  assert.deepEqual(bare(growing.update(text)), bare(parseBlocks(text)));
  // Parsing 90 kB 5,000 times would take minutes.
  assert.ok(performance.now() - started < 20_000);
});

test("a text twice as long costs about twice as much", () => {
  const paragraph = "Some **bold** words, a [link](http://a.b) and `code`, then more of them.\n\n";
  const cost = (paragraphs: number): number => {
    const text = paragraph.repeat(paragraphs);
    const growing = new GrowingMarkdown();
    const before = process.cpuUsage().user;
    for (let at = 0; at < text.length; at += 8) growing.update(text.slice(0, at));
    return process.cpuUsage().user - before;
  };
  cost(50); // let the compiler settle
  const once = cost(100);
  // Parsing everything each time would cost four times as much.
  assert.ok(cost(200) < 3 * once);
});

test("another text starts afresh", () => {
  const growing = new GrowingMarkdown();
  growing.update("# one\n\ntwo\n\n```\nx\n");
  assert.deepEqual(bare(growing.update("other\n")), bare(parseBlocks("other\n")));
  assert.deepEqual(growing.update(""), []);
});

test("definitions count once the text is complete", () => {
  const text = "see [a]\n\nmore\n\n[a]: http://b.c\n\nend\n";
  const growing = new GrowingMarkdown();
  for (let at = 1; at <= text.length; at++) growing.update(text.slice(0, at));
  assert.ok(!JSON.stringify(growing.update(text)).includes("linkReference"));
  assert.ok(JSON.stringify(growing.update(text, true)).includes("linkReference"));
});

test("the tree is that of mdast-util-from-markdown where no extension plays a part", () => {
  const text = "# t\n\na *b*\n\n- c\n- d\n\n> e\n\n    f\n";
  const expected = fromMarkdown(text).children.map((node) => node.type);
  assert.deepEqual(parseBlocks(text).map((block) => block.node.type), expected);
});

test("costly runs are text, what stands around them is not", () => {
  const long = "[a](".repeat(RUN_LIMIT / 4 + 1);
  const deep = "> ".repeat(40) + "x";
  for (const bad of [long, deep, "- ".repeat(5000) + "x", "1. ".repeat(5000) + "x", ">".repeat(9000)]) {
    const text = `# head\n\n${bad}\n\n- tail\n`;
    const started = performance.now();
    assert.deepEqual(
      parseBlocks(text).map((block) => block.node.type),
      ["heading", "plain", "list"],
    );
    assert.ok(performance.now() - started < 5_000, bad.slice(0, 20));
  }
  const code = "```\n" + "x\n".repeat(RUN_LIMIT) + "```\n";
  assert.deepEqual(costlyRuns(code), []);
  for (const rule of ["-".repeat(80), "*".repeat(80), "_ ".repeat(40), "=".repeat(300)]) {
    assert.deepEqual(costlyRuns(`a\n\n${rule}\n\nb`), []);
  }
});
