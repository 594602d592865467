// text.ts - hostile text made harmless to the eye: hidden characters shown, links checked.
//
// A model's words (and what it repeats from a pasted document) may hold characters that reorder or
// hide text: bidirectional controls ("Trojan Source", CVE-2021-42574), tag characters that carry
// unseen ASCII, control codes. They are shown as their code points instead of acting.
// SPDX-License-Identifier: Apache-2.0
import { h } from "preact";
import type { ComponentChild } from "preact";

// C0 without tab, LF, CR; C1; ALM, LRM, RLM, embeddings, overrides, isolates; tags.
const HIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u{e0000}-\u{e007f}]/gu;

export function codePoint(character: string): string {
  return "U+" + (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
}

/** Plain text with hidden characters written out, for places that take no elements (titles). */
export function plain(text: string): string {
  return text.replace(HIDDEN, (character) => `⟨${codePoint(character)}⟩`);
}

/** Text for display: strings, with a marked element wherever a hidden character stood. */
export function shown(text: string): ComponentChild {
  if (text.search(HIDDEN) < 0) return text;
  const parts: ComponentChild[] = [];
  let end = 0;
  for (const match of text.matchAll(HIDDEN)) {
    parts.push(text.slice(end, match.index));
    const name = codePoint(match[0]);
    parts.push(h("span", { class: "hidden-character", title: `Hidden character ${name}` }, name));
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts;
}

/**
 * The address in the form the browser will use (so that what is shown is where it leads), or
 * undefined for anything but web and mail addresses. Addresses with a user name are refused: their
 * only use here is to look like another host.
 */
export function safeAddress(address: string): string | undefined {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    return undefined; // relative ones would lead into this program's own server
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return undefined;
  if (url.username !== "" || url.password !== "") return undefined;
  return url.href;
}
