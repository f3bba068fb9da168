import assert from "node:assert/strict";
import { test } from "node:test";
import { controller } from "./greeting.js";

const namespace = (more) => JSON.stringify({ metadata: { name: "home", labels: { greet: "world" }, ...more } });
const reconcile = (object, objects) => controller.reconcile({ target: { name: "home" }, object, related: [{ name: "configmaps", objects }] }).writes;

test("a namespace that asks for it is greeted once", () => {
  controller.start({ config: "{}" });
  const [write] = reconcile(namespace({}), []);
  assert.equal(JSON.parse(write.action.val.body).data.text, "Hello, world!");
  assert.deepEqual(reconcile(namespace({}), [write.action.val.body]), []);
});

test("a namespace on its way out is left alone", () => {
  assert.deepEqual(reconcile(namespace({ deletionTimestamp: "now" }), []), []);
  assert.deepEqual(reconcile(undefined, []), []);
});
