import assert from "node:assert/strict";
import { test } from "node:test";
import { controller, reads } from "./greeting.js";

const namespace = (more) => JSON.stringify({ metadata: { name: "home", labels: { greet: "world" }, ...more } });

// As the kernel asks: once more with what was wanted.
function reconcile(object, objects, words = []) {
  const related = [{ name: "configmaps", objects }];
  const ask = () => controller.reconcile({ target: { name: "home" }, object, related }).writes;
  const first = ask();
  if (reads.wanted().length === 0) return first;
  related.push(...reads.wanted().map(({ name }) => ({ name, objects: words })));
  return ask();
}

test("a namespace that asks for it is greeted once", () => {
  controller.start({ config: "{}" });
  const [write] = reconcile(namespace({}), []);
  assert.equal(JSON.parse(write.action.val.body).data.text, "Hello, world!");
  assert.deepEqual(reconcile(namespace({}), [write.action.val.body]), []);
});

test("it is greeted in the words that are to be read", () => {
  const [write] = reconcile(namespace({}), [], [JSON.stringify({ data: { greeting: "Salut" } })]);
  assert.equal(JSON.parse(write.action.val.body).data.text, "Salut, world!");
});

test("a namespace on its way out is left alone", () => {
  assert.deepEqual(reconcile(namespace({ deletionTimestamp: "now" }), []), []);
  assert.deepEqual(reconcile(undefined, []), []);
});
