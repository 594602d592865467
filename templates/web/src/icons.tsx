// icons.tsx - the few icons, drawn on a grid of 24, in the colour of the text beside them.
// SPDX-License-Identifier: Apache-2.0
import type { VNode } from "preact";

const PATHS = {
  send: "M12 19V5M5.5 11.5 12 5l6.5 6.5",
  down: "M12 5v14M5.5 12.5 12 19l6.5-6.5",
  add: "M12 5v14M5 12h14",
  quit: "M12 3v9M6.3 6.8a8 8 0 1 0 11.4 0",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 4.5V11h-6.5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  tune: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5v5M8 14.5v5",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M19 5l-1.4 1.4M6.4 17.6 5 19",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  system: "M4 5h16v11H4zM9 20h6M12 16v4",
} as const;

export type IconName = keyof typeof PATHS | "stop";

export function Icon({ name }: { name: IconName }): VNode {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      {name === "stop" ? (
        <rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" />
      ) : (
        <path d={PATHS[name]} />
      )}
    </svg>
  );
}
