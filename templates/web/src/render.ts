// render.ts - syntax tree to elements, by an allow-list: what is not listed is shown as text.
//
// Nothing a model writes becomes markup, script, style or a request. Raw HTML is text. Images are
// never fetched (an address may carry the conversation away): they become a note with an ordinary
// link. Links lead to web and mail addresses only, open apart, and show where they lead.
// SPDX-License-Identifier: Apache-2.0
import type { AlignType, Definition, Nodes, Table } from "mdast";
import { Component, h } from "preact";
import type { ComponentChild, ComponentChildren } from "preact";
import { CopyButton } from "./copy.ts";
import type { Block, Plain } from "./markdown.ts";
import { GrowingMarkdown } from "./markdown.ts";
import { plain, safeAddress, shown } from "./text.ts";

/** Deeper nodes are shown as their text. Deep trees cost layout far more than they say. */
const DEPTH_LIMIT = 48;
/** Characters of a link's address that are written out after its label. */
const ADDRESS_SHOWN = 60;

type Definitions = ReadonlyMap<string, Definition>;
type Node = Nodes | Plain;

class Renderer {
  readonly #definitions: Definitions;

  constructor(definitions: Definitions) {
    this.#definitions = definitions;
  }

  all(nodes: readonly Node[], depth: number): ComponentChild[] {
    return nodes.map((node) => this.one(node, depth));
  }

  one(node: Node, depth: number): ComponentChild {
    if (depth > DEPTH_LIMIT) return shown(textOf(node));
    const inner = (): ComponentChildren =>
      "children" in node ? this.all(node.children, depth + 1) : null;
    switch (node.type) {
      case "text":
        return shown(node.value);
      case "plain":
        return h("p", { class: "plain", dir: "auto" }, shown(node.value));
      case "html":
        return h("span", { class: "raw" }, shown(node.value));
      case "paragraph":
        return h("p", { dir: "auto" }, inner());
      case "heading":
        // The page itself uses h1 and h2; an answer's headings come below them.
        return h(`h${Math.min(node.depth + 2, 6)}`, { class: `level-${node.depth}`, dir: "auto" }, inner());
      case "emphasis":
        return h("em", null, inner());
      case "strong":
        return h("strong", null, inner());
      case "delete":
        return h("del", null, inner());
      case "inlineCode":
        return h("code", null, shown(node.value));
      case "code":
        return codeBlock(node.value, node.lang ?? "");
      case "blockquote":
        return h("blockquote", { dir: "auto" }, inner());
      case "list":
        return node.ordered
          ? h("ol", { start: node.start ?? 1, dir: "auto" }, inner())
          : h("ul", { dir: "auto" }, inner());
      case "listItem":
        return this.#listItem(node.children, node.checked ?? null, node.spread ?? false, depth);
      case "table":
        return this.#table(node, depth);
      case "thematicBreak":
        return h("hr", null);
      case "break":
        return h("br", null);
      case "link":
        return link(node.url, inner(), textOf(node));
      case "linkReference": {
        const definition = this.#definitions.get(node.identifier);
        if (definition) return link(definition.url, inner(), textOf(node));
        return ["[", inner(), "]"];
      }
      case "image":
        return image(node.alt ?? "", node.url);
      case "imageReference":
        return image(node.alt ?? "", this.#definitions.get(node.identifier)?.url ?? "");
      case "definition":
        return null;
      default:
        return shown(textOf(node));
    }
  }

  #listItem(nodes: readonly Node[], checked: boolean | null, spread: boolean, depth: number): ComponentChild {
    // A tight item's paragraph is only its text.
    const children = nodes.flatMap((node) =>
      node.type === "paragraph" && !spread
        ? this.all(node.children, depth + 2)
        : [this.one(node, depth + 1)],
    );
    if (checked === null) return h("li", null, children);
    const box = h("span", {
      class: checked ? "task done" : "task",
      role: "img",
      "aria-label": checked ? "done: " : "to do: ",
    });
    return h("li", { class: "has-task" }, box, children);
  }

  #table(node: Table, depth: number): ComponentChild {
    const [head, ...body] = node.children;
    const row = (cells: Table["children"][number], tag: "th" | "td"): ComponentChild =>
      h(
        "tr",
        null,
        cells.children.map((cell, column) =>
          h(tag, { class: alignClass(node.align?.[column]), dir: "auto" }, this.all(cell.children, depth + 3)),
        ),
      );
    return h(
      "div",
      { class: "table", tabIndex: 0, role: "group", "aria-label": "Table" },
      h(
        "table",
        null,
        head && h("thead", null, row(head, "th")),
        h("tbody", null, body.map((cells) => row(cells, "td"))),
      ),
    );
  }
}

function alignClass(align: AlignType | undefined): string | undefined {
  return align ? `align-${align}` : undefined;
}

/** The words of a node, without recursion: a tree may be deep. */
function textOf(node: Node): string {
  const words: string[] = [];
  const waiting: Node[] = [node];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    if ("value" in next) words.push(next.value);
    else if ("alt" in next && next.alt) words.push(next.alt);
    else if ("children" in next) waiting.push(...[...next.children].reverse());
  }
  return words.join("");
}

function link(address: string, label: ComponentChildren, words: string): ComponentChild {
  const href = safeAddress(address);
  if (href === undefined) {
    return h("span", { class: "no-link" }, label, address !== "" && [" (", shown(address), ")"]);
  }
  const attributes = { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" };
  const bare = (text: string): string => text.replace(/^(?:https?:\/\/|mailto:)/, "").replace(/\/$/, "");
  const where = bare(href);
  if (bare(words.trim()) === where) return h("a", attributes, label);
  const short = where.length > ADDRESS_SHOWN ? where.slice(0, ADDRESS_SHOWN) + "…" : where;
  return [h("a", attributes, label), h("span", { class: "address" }, ` (${short})`)];
}

function image(alt: string, address: string): ComponentChild {
  const words = `image: ${alt || "no description"}`;
  return h(
    "span",
    { class: "image-note" },
    safeAddress(address) === undefined ? ["[", shown(words), "]"] : link(address, shown(words), words),
  );
}

function codeBlock(value: string, language: string): ComponentChild {
  return h(
    "figure",
    { class: "code" },
    h(
      "figcaption",
      null,
      h("span", { class: "language" }, plain(language.slice(0, 40)) || "text"),
      h(CopyButton, { text: value, label: "Copy code" }),
    ),
    h("pre", { tabIndex: 0, dir: "ltr" }, h("code", null, shown(value))),
  );
}

interface BlockProps {
  block: Block;
  definitions: Definitions;
}

/** One block. Rendered again only if its node is another one. */
class BlockView extends Component<BlockProps> {
  override shouldComponentUpdate(next: BlockProps): boolean {
    return next.block.node !== this.props.block.node || next.definitions !== this.props.definitions;
  }

  override render(): ComponentChild {
    return new Renderer(this.props.definitions).one(this.props.block.node, 0);
  }
}

export interface MarkdownProps {
  text: string;
  complete: boolean; // the text will not grow further
}

const NO_DEFINITIONS: Definitions = new Map();

/** The first definition of a name counts, as CommonMark says. */
function definitionsOf(blocks: readonly Block[]): Definitions {
  const found = new Map<string, Definition>();
  const waiting: Node[] = blocks.map((block) => block.node).reverse();
  for (let node = waiting.pop(); node; node = waiting.pop()) {
    if (node.type === "definition" && !found.has(node.identifier)) found.set(node.identifier, node);
    if (node.type === "blockquote" || node.type === "list" || node.type === "listItem") {
      waiting.push(...([...node.children] as Node[]).reverse());
    }
  }
  return found.size > 0 ? found : NO_DEFINITIONS;
}

/** A Markdown text, growing or complete. */
export class Markdown extends Component<MarkdownProps> {
  readonly #growing = new GrowingMarkdown();

  override shouldComponentUpdate(next: MarkdownProps): boolean {
    return next.text !== this.props.text || next.complete !== this.props.complete;
  }

  override render(): ComponentChild {
    const blocks = this.#growing.update(this.props.text, this.props.complete);
    const definitions = this.props.complete ? definitionsOf(blocks) : NO_DEFINITIONS;
    return h(
      "div",
      { class: "markdown" },
      blocks.map((block) => h(BlockView, { key: block.start, block, definitions })),
    );
  }
}

