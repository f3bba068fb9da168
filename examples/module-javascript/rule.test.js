import assert from "node:assert/strict";
import { test } from "node:test";
import { admission } from "./rule.js";

const review = (phase, pod) => admission.review({ phase, object: JSON.stringify(pod) });
const pod = (resources) => ({ metadata: { name: "p" }, spec: { containers: [{ name: "c", resources }] } });

test("a container says how much memory it may use", () => {
  assert.equal(review("validating", pod({ limits: { memory: "1Gi" } })).refusal, undefined);
  assert.equal(review("validating", pod(undefined)).refusal.message, "container c must have a limit of memory");
});

test("a pod without a team gets one", () => {
  admission.start({ config: '{"team": "blue"}' });
  assert.deepEqual(review("mutating", pod(undefined)).edits, [{ op: "add", path: "/metadata/labels", value: '{"team":"blue"}' }]);
  assert.deepEqual(review("mutating", { ...pod(undefined), metadata: { labels: { team: "red" } } }).edits, []);
});
