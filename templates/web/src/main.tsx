// main.tsx - starts the page.
// SPDX-License-Identifier: Apache-2.0
import { render } from "preact";
import { Api } from "./api.ts";
import { App } from "./app.tsx";
import { apiKey, applyTheme, keptTheme } from "./keep.ts";

applyTheme(keptTheme());
const api = new Api();
api.key = apiKey();
const page = document.getElementById("page");
if (page) render(<App api={api} />, page);
