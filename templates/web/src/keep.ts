// keep.ts - what outlives a reload: the conversation (this tab only) and the theme.
//
// An origin like http://127.0.0.1:8080 is inherited by the next program on that port, so nothing of
// a conversation goes where it would outlive the tab, and it is shown again only by the program
// that it was held with. Storage may be missing or full: then a reload forgets.
// SPDX-License-Identifier: Apache-2.0
import type { Turn } from "./chat.ts";

const CHAT = "v1.chat";
const KEY = "v1.key";
const THEME = "v1.theme";

export interface Kept {
  instance: string;
  turns: readonly Turn[];
  system: string | undefined;
  draft: string;
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

export function keepChat(kept: Kept): void {
  attempt(() => sessionStorage.setItem(CHAT, JSON.stringify(kept)));
}

export function keptChat(instance: string): Kept | undefined {
  const kept = attempt(() => JSON.parse(sessionStorage.getItem(CHAT) ?? "null") as Kept | null);
  return kept && kept.instance === instance && Array.isArray(kept.turns) ? kept : undefined;
}

export function forgetAll(): void {
  attempt(() => sessionStorage.clear());
}

/** The key comes in the address's fragment, which is never sent; then it leaves the address bar. */
export function apiKey(): string {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given !== null) {
    history.replaceState(null, "", location.pathname);
    keepKey(given);
    return given;
  }
  return attempt(() => sessionStorage.getItem(KEY)) ?? "";
}

export function keepKey(key: string): void {
  attempt(() => sessionStorage.setItem(KEY, key));
}

export type Theme = "system" | "light" | "dark";

export function keptTheme(): Theme {
  const theme = attempt(() => localStorage.getItem(THEME));
  return theme === "light" || theme === "dark" ? theme : "system";
}

export function applyTheme(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}

export function keepTheme(theme: Theme): void {
  attempt(() =>
    theme === "system" ? localStorage.removeItem(THEME) : localStorage.setItem(THEME, theme),
  );
}
