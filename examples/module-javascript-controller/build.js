// Makes guest.wasm of greeting.js: what `npm run build` runs, and so `pintle module build`.
import { componentize } from "@bytecodealliance/componentize-js";
import { writeFile } from "node:fs/promises";

const { component } = await componentize({
  sourcePath: "greeting.js",
  witPath: "wit/module.wit",
  worldName: "reading-controller-module",
  // A module has none of these: what it is given is all there is.
  disableFeatures: ["random", "clocks", "http", "fetch-event"],
});
await writeFile("guest.wasm", component);
