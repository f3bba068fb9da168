// A controller: a namespace with the label greet has a ConfigMap that greets who it names.

let config = {};

export const controller = {
  start(hello) {
    config = JSON.parse(hello.config);
  },

  reconcile({ target, object, related }) {
    const namespace = JSON.parse(object ?? "null");
    if (namespace === null || namespace.metadata.deletionTimestamp) return plan([]);
    const wanted = greeting(namespace);
    const there = related.flatMap(({ objects }) => objects.map((text) => JSON.parse(text))).find(({ metadata }) => metadata.name === "greeting");
    if (there?.data?.text === wanted.data.text) return plan([]);
    console.log(`greeting ${target.name}`);
    const configMap = { group: "", resource: "configmaps", namespace: target.name, name: "greeting", uid: "" };
    const action = { tag: "patch", val: { kind: "apply", body: JSON.stringify(wanted) } };
    return plan([{ target: configMap, subresource: "", action }]);
  },
};

function greeting({ metadata }) {
  const text = `${config.greeting ?? "Hello"}, ${metadata.labels?.greet ?? "nobody"}!`;
  return { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "greeting", namespace: metadata.name }, data: { text } };
}

function plan(writes) {
  return { writes, events: [], requeueAfterMillis: undefined };
}
