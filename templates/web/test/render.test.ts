// SPDX-License-Identifier: Apache-2.0
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { h } from "preact";
import { renderToString } from "preact-render-to-string";
import { Markdown } from "../src/render.ts";
import { plain, safeAddress } from "../src/text.ts";

const html = (text: string, complete = true): string => renderToString(h(Markdown, { text, complete }));
const inner = (text: string): string => html(text).replace(/^<div class="markdown">|<\/div>$/g, "");

const REL = 'target="_blank" rel="noopener noreferrer nofollow"';
const cases: [string, string][] = [
  ["a\nb", '<p dir="auto">a\nb</p>'],
  ["# a", '<h3 class="level-1" dir="auto">a</h3>'],
  ["###### a", '<h6 class="level-6" dir="auto">a</h6>'],
  ["*a* **b** ~~c~~ `d`", '<p dir="auto"><em>a</em> <strong>b</strong> <del>c</del> <code>d</code></p>'],
  ["- a\n- b", '<ul dir="auto"><li>a</li><li>b</li></ul>'],
  ["3. a", '<ol start="3" dir="auto"><li>a</li></ol>'],
  ["> a", '<blockquote dir="auto"><p dir="auto">a</p></blockquote>'],
  ["---", "<hr/>"],
  ["a  \nb", '<p dir="auto">a<br/>b</p>'],
  ["<b>x</b>", '<p dir="auto"><span class="raw">&lt;b></span>x<span class="raw">&lt;/b></span></p>'],
  ["<https://a.b/c>", `<p dir="auto"><a href="https://a.b/c" title="https://a.b/c" ${REL}>https://a.b/c</a></p>`],
  [
    "[x](https://a.b/c)",
    `<p dir="auto"><a href="https://a.b/c" title="https://a.b/c" ${REL}>x</a><span class="address"> (a.b/c)</span></p>`,
  ],
  ["[x](javascript:y)", '<p dir="auto"><span class="no-link">x (javascript:y)</span></p>'],
  [
    "![x](https://a.b/c.png)",
    '<p dir="auto"><span class="image-note">' +
      `<a href="https://a.b/c.png" title="https://a.b/c.png" ${REL}>image: x</a>` +
      '<span class="address"> (a.b/c.png)</span></span></p>',
  ],
  ["![x](data:image/png;base64,AA)", '<p dir="auto"><span class="image-note">[image: x]</span></p>'],
  ["[a] [b][c]", '<p dir="auto">[a] [b][c]</p>'],
];

for (const [text, expected] of cases) {
  test(`markdown ${JSON.stringify(text)}`, () => assert.equal(inner(text), expected));
}

test("tables, tasks and code", () => {
  const table = inner("| a | b |\n|--:|---|\n| c | **d** |");
  assert.match(table, /<th class="align-right" dir="auto">a<\/th>/);
  assert.match(table, /<td dir="auto"><strong>d<\/strong><\/td>/);
  assert.match(inner("- [x] a\n- [ ] b"), /class="task done" role="img".*a<\/li>.*class="task" role="img".*b<\/li>/);
  const code = inner('```py\nprint("<b>")\n```');
  assert.match(code, /<span class="language">py<\/span>/);
  assert.match(code, /<pre tabindex="0" dir="ltr"><code>print\("&lt;b>"\)<\/code><\/pre>|<code>print\(&quot;&lt;b>&quot;\)<\/code>/);
});

test("a reference leads where its first definition says, once the text is complete", () => {
  const text = "[a]\n\n[a]: http://first.example\n[a]: http://second.example\n";
  assert.match(html(text), /<a href="http:\/\/first\.example\/"/);
  assert.doesNotMatch(html(text, false), /<a /);
});

test("hidden characters are written out", () => {
  const shown = inner("a\u202Eb\u2066c\u{e0041}d\u001be `f\u200Fg`");
  for (const name of ["U+202E", "U+2066", "U+E0041", "U+001B", "U+200F"]) assert.ok(shown.includes(`>${name}<`), name);
  assert.doesNotMatch(shown, /[\u202a-\u202e\u2066-\u2069\u200f\u001b\u{e0041}]/u);
  assert.equal(plain("a\u202Eb"), "a⟨U+202E⟩b");
  assert.equal(plain("שלום, नमस्ते 👩‍💻"), "שלום, नमस्ते 👩‍💻");
});

test("addresses", () => {
  const good: [string, string][] = [
    ["http://a.b", "http://a.b/"],
    ["HTTPS://A.B/c?d#e", "https://a.b/c?d#e"],
    ["mailto:a@b.c", "mailto:a@b.c"],
    ["https://аpple.com/", "https://xn--pple-43d.com/"], // the first letter is Cyrillic
  ];
  for (const [address, href] of good) assert.equal(safeAddress(address), href);
  const bad = [
    "", "a", "/a", "//a.b", "#a", "?a", "javascript:a", " javascript:a", "java\nscript:a", "\u0001javascript:a",
    "data:text/html,a", "vbscript:a", "file:///a", "blob:http://a.b/c", "about:blank", "ftp://a.b", "tel:1",
    "https://u@a.b", "https://u:p@a.b", "http://", "filesystem:http://a.b/c", "view-source:http://a.b", "intent://a",
  ];
  for (const address of bad) assert.equal(safeAddress(address), undefined, address);
});

// What an answer may consist of. No src, srcset, style, on..., action, ping, data or id is among it.
const ELEMENTS = new Set(
  ("a blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr li ol p pre span strong table tbody td th " +
    "thead tr ul").split(" "),
);
const ATTRIBUTES = new Set(
  "aria-label aria-live class dir href rel role start tabindex target title type".split(" "),
);

test("hostile texts become listed elements and attributes only", () => {
  const payloads = JSON.parse(readFileSync(new URL("hostile.json", import.meta.url), "utf8")) as string[];
  assert.ok(payloads.length >= 60);
  let links = 0;
  for (const payload of [...payloads, payloads.join("\n\n")]) {
    const text = payload.replaceAll("CANARY", "http://127.0.0.1:9");
    for (const complete of [true, false]) {
      const made = html(text, complete);
      for (const [, tag, attributes] of made.matchAll(/<\/?([a-z][a-z0-9-]*)((?:\s+[^\s=>]+(?:="[^"]*")?)*)\s*\/?>/gi)) {
        assert.ok(ELEMENTS.has(tag!), `<${tag}> from ${payload}`);
        for (const [, name, value] of attributes!.matchAll(/([^\s=]+)(?:="([^"]*)")?/g)) {
          assert.ok(ATTRIBUTES.has(name!), `${name} from ${payload}`);
          if (name === "href") {
            links++;
            assert.match(value!, /^(https?:\/\/|mailto:)/, payload);
          }
        }
      }
      // Every < in the result belongs to an element matched above, or it would be markup unseen.
      assert.equal(made.match(/</g)!.length, [...made.matchAll(/<\/?[a-z]/g)].length, payload);
    }
  }
  assert.ok(links > 20);
});

test("deep trees are drawn without deep recursion", () => {
  for (const text of ["*a **a ".repeat(2000), "[".repeat(5000) + "a" + "]".repeat(5000), "> ".repeat(12) + "a"]) {
    assert.ok(html(text).length > 0);
  }
  let nested = "";
  for (let depth = 0; depth < 120; depth++) nested += "  ".repeat(depth) + "- a\n";
  assert.ok(html(nested).includes("a"));
});
