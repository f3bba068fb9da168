// A controller: a namespace with the label greet has a ConfigMap that greets who it names, in the words of the ConfigMap default/words if there is one.

let config = {};
let unread = [];

// What the manifest does not relate and has to be read before `reconcile` can decide: it is called again then.
export const reads = { wanted: () => unread };

function read(related, query) {
  const name = JSON.stringify(query);
  const found = related.find((one) => one.name === name);
  if (found === undefined) unread.push({ name, group: "", namespace: "", objectName: "", labelSelector: "", ...query });
  return found?.objects.map((text) => JSON.parse(text));
}

export const controller = {
  start(hello) {
    config = JSON.parse(hello.config);
  },

  reconcile({ target, object, related }) {
    unread = [];
    const namespace = JSON.parse(object ?? "null");
    if (namespace === null || namespace.metadata.deletionTimestamp) return plan([]);
    const words = read(related, { resource: "configmaps", namespace: "default", objectName: "words" });
    if (words === undefined) return plan([]);
    const wanted = greeting(namespace, words[0]?.data?.greeting);
    const greetings = related.find(({ name }) => name === "configmaps").objects.map((text) => JSON.parse(text));
    const there = greetings.find(({ metadata }) => metadata.name === "greeting");
    if (there?.data?.text === wanted.data.text) return plan([]);
    console.log(`greeting ${target.name}`);
    const configMap = { group: "", resource: "configmaps", namespace: target.name, name: "greeting", uid: "" };
    const action = { tag: "patch", val: { kind: "apply", body: JSON.stringify(wanted) } };
    return plan([{ target: configMap, subresource: "", action }]);
  },
};

function greeting({ metadata }, word) {
  const text = `${word ?? config.greeting ?? "Hello"}, ${metadata.labels?.greet ?? "nobody"}!`;
  return { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "greeting", namespace: metadata.name }, data: { text } };
}

function plan(writes) {
  return { writes, events: [], requeueAfterMillis: undefined };
}
