// markdown.ts - a growing Markdown text to blocks; only the unfinished end is parsed again.
//
// micromark and mdast-util-from-markdown (CommonMark plus the GFM tables, strikethrough, task lists
// and bare links) give the syntax tree; render.ts makes elements of it.
//
// An answer arrives in hundreds of pieces, so parsing it whole each time would cost its length
// squared. A block can no longer change once another block begins below it on a line that is
// complete (while that line still grows, "***" may yet turn out to continue the block above). So
// the text up to the last such block is finished; each update parses from there. An open code
// fence, the one block that often grows long, is not even parsed again: until a line closes it,
// new text only lengthens its value.
//
// Two things reach across blocks. Link definitions do, so a finished text that has some is parsed
// once as a whole. And some inputs cost the parser the square of their length (deep nesting, a
// paragraph of many thousand half-open links); such runs of lines are shown as plain text.
// SPDX-License-Identifier: Apache-2.0
import type { Code, Root, RootContent } from "mdast";
import { fromMarkdown } from "mdast-util-from-markdown";
import { gfmAutolinkLiteralFromMarkdown } from "mdast-util-gfm-autolink-literal";
import { gfmStrikethroughFromMarkdown } from "mdast-util-gfm-strikethrough";
import { gfmTableFromMarkdown } from "mdast-util-gfm-table";
import { gfmTaskListItemFromMarkdown } from "mdast-util-gfm-task-list-item";
import { gfmAutolinkLiteral } from "micromark-extension-gfm-autolink-literal";
import { gfmStrikethrough } from "micromark-extension-gfm-strikethrough";
import { gfmTable } from "micromark-extension-gfm-table";
import { gfmTaskListItem } from "micromark-extension-gfm-task-list-item";

/** Text that is shown as it is. */
export interface Plain {
  type: "plain";
  value: string;
}

export interface Block {
  /** Where the block's first line begins in the whole text: its identity while it grows. */
  start: number;
  node: RootContent | Plain;
}

/** Characters of a run of lines without a blank one, beyond which it is plain text. */
export const RUN_LIMIT = 20_000;
/** Nested containers (quotes, lists) opened on one line, beyond which its run is plain text. */
const DEEP = /^[ \t]*(?:>[ \t]*|(?:[*+-]|\d{1,9}[.)])[ \t]+){13}/;
const FENCE = /^( {0,3})(`{3,}|~{3,})/;
const DEFINITION = /^ {0,3}\[[^\]]+\]:/m;

const SYNTAX = {
  extensions: [
    gfmAutolinkLiteral(),
    gfmStrikethrough({ singleTilde: false }),
    gfmTable(),
    gfmTaskListItem(),
  ],
  mdastExtensions: [
    gfmAutolinkLiteralFromMarkdown(),
    gfmStrikethroughFromMarkdown(),
    gfmTableFromMarkdown(),
    gfmTaskListItemFromMarkdown(),
  ],
};

function parseTree(source: string): Root {
  return fromMarkdown(source, SYNTAX);
}

/** Start and end of each run of lines that is too costly to parse. Code in fences is cheap. */
export function costlyRuns(source: string): [number, number][] {
  const runs: [number, number][] = [];
  let start = -1; // of the current run; -1 between runs
  let costly = false;
  let fence = "";
  let at = 0;
  const close = (end: number): void => {
    if (start >= 0 && (costly || end - start > RUN_LIMIT)) runs.push([start, end]);
    start = -1;
    costly = false;
  };
  while (at < source.length) {
    const feed = source.indexOf("\n", at);
    const end = feed < 0 ? source.length : feed + 1;
    const line = source.slice(at, end);
    if (fence !== "") {
      if (closesFence(line, fence)) fence = "";
    } else if (line.trim() === "") {
      close(at);
    } else {
      const opening = FENCE.exec(line);
      if (opening) {
        close(at);
        fence = opening[2] ?? "";
      } else {
        if (start < 0) start = at;
        if (DEEP.test(line)) costly = true;
      }
    }
    at = end;
  }
  close(source.length);
  return runs;
}

function closesFence(line: string, fence: string): boolean {
  const found = /^ {0,3}(`{3,}|~{3,})[ \t]*[\r\n]*$/.exec(line)?.[1];
  return found !== undefined && found[0] === fence[0] && found.length >= fence.length;
}

function lineStart(source: string, offset: number): number {
  return (
    Math.max(source.lastIndexOf("\n", offset - 1), source.lastIndexOf("\r", offset - 1)) + 1
  );
}

/** All blocks of source; base is added to their starts. */
export function parseBlocks(source: string, base = 0): Block[] {
  const blocks: Block[] = [];
  const parsePart = (from: number, to: number): void => {
    if (from === to) return;
    const part = source.slice(from, to);
    for (const node of parseTree(part).children) {
      const offset = node.position?.start.offset ?? 0;
      blocks.push({ start: base + from + (offset && lineStart(part, offset)), node });
    }
  };
  let at = 0;
  for (const [from, to] of costlyRuns(source)) {
    parsePart(at, from);
    blocks.push({ start: base + from, node: { type: "plain", value: source.slice(from, to) } });
    at = to;
  }
  parsePart(at, source.length);
  return blocks;
}

/** A code block whose closing fence has not come yet. */
interface OpenFence {
  start: number; // of its block
  node: Code;
  fence: string;
  from: number; // where its value begins in the text
  scanned: number; // lines before this offset do not close it
}

/** The blocks of one text that grows at its end. */
export class GrowingMarkdown {
  #text = "";
  #finished: Block[] = [];
  #tail: Block[] = [];
  #from = 0; // where the tail begins
  #open: OpenFence | undefined;
  #whole = false; // parsed in one piece, with its definitions

  /** The blocks of text. `complete` says that it will not grow further. */
  update(text: string, complete = false): Block[] {
    if (!text.startsWith(this.#text)) this.#reset();
    const grown = text.length > this.#text.length;
    if (grown) this.#whole = false;
    this.#text = text;
    if (grown && !this.#lengthenCode()) this.#parseTail();
    if (complete && !this.#whole && DEFINITION.test(text)) {
      this.#finished = [];
      this.#tail = parseBlocks(text);
      this.#from = 0;
      this.#open = undefined;
      this.#whole = true;
    }
    return this.#finished.concat(this.#tail);
  }

  #reset(): void {
    this.#text = "";
    this.#finished = [];
    this.#tail = [];
    this.#from = 0;
    this.#open = undefined;
    this.#whole = false;
  }

  #parseTail(): void {
    const text = this.#text;
    const blocks = parseBlocks(text.slice(this.#from), this.#from);
    let last = blocks.length - 1;
    while (last > 0 && !/[\r\n]/.test(text.slice(blocks[last]!.start))) last--;
    this.#tail = blocks;
    if (last > 0) {
      this.#finished = this.#finished.concat(blocks.slice(0, last));
      this.#tail = blocks.slice(last);
      this.#from = blocks[last]!.start;
    }
    this.#open = this.#tail.length === 1 ? openFence(text, this.#tail[0]!) : undefined;
  }

  /** True if the new text only lengthened an open code block. */
  #lengthenCode(): boolean {
    const open = this.#open;
    if (!open) return false;
    const text = this.#text;
    for (let at = open.scanned; at < text.length; ) {
      const feed = text.indexOf("\n", at);
      const end = feed < 0 ? text.length : feed + 1;
      if (closesFence(text.slice(at, end), open.fence)) return false;
      if (feed >= 0) open.scanned = end;
      at = end;
    }
    open.node = { ...open.node, value: codeValue(text.slice(open.from)) };
    this.#tail = [{ start: open.start, node: open.node }];
    return true;
  }
}

function codeValue(lines: string): string {
  return lines.replace(/\r?\n$/, "");
}

/** The block as an open fence, if it is one whose value is simply the rest of the text. */
function openFence(text: string, block: Block): OpenFence | undefined {
  if (block.node.type !== "code") return undefined;
  const source = text.slice(block.start);
  const opening = FENCE.exec(source);
  const feed = source.indexOf("\n");
  // An indented fence takes that much indentation from each line; rare enough to parse again. So
  // are lone carriage returns and the NUL that the parser replaces.
  if (!opening || opening[1] !== "" || feed < 0 || /\r(?!\n)|\0/.test(source)) return undefined;
  const from = block.start + feed + 1;
  if (codeValue(text.slice(from)) !== block.node.value) return undefined; // closed, or not simple
  const lastFeed = Math.max(text.lastIndexOf("\n") + 1, from);
  return { start: block.start, node: block.node, fence: opening[2] ?? "", from, scanned: lastFeed };
}
