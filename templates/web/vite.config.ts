// vite.config.ts - sources to the four files that every executable carries.
//
// Fixed names (the container is their version), no source maps, no inline code (the server's CSP
// forbids it), and no 'browser' export condition: micromark's browser build decodes entities
// through innerHTML, which the page's Trusted Types policy forbids; the plain build uses a table.
// SPDX-License-Identifier: Apache-2.0
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  appType: "mpa",
  cacheDir: ".vite",
  resolve: { conditions: ["module", "production"] },
  build: {
    outDir: "dist",
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: false,
    reportCompressedSize: false,
    license: { fileName: "licenses.txt" },
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "[name].js",
        assetFileNames: (asset) =>
          asset.names.some((name) => name.endsWith(".css")) ? "app.css" : "[name][extname]",
      },
    },
  },
});
