// An admission rule: containers say how much memory they may use, and pods without a team get the one from the configuration.

let config = {};

export const admission = {
  start(hello) {
    config = JSON.parse(hello.config);
  },

  review({ phase, object }) {
    const pod = JSON.parse(object ?? "null");
    if (pod === null) return verdict({});
    return phase === "mutating" ? verdict({ edits: edits(pod) }) : verdict({ refusal: refusal(pod) });
  },
};

function refusal(pod) {
  const unbounded = pod.spec.containers.find((container) => container.resources?.limits?.memory === undefined);
  return unbounded && { code: 0, reason: "", message: `container ${unbounded.name} must have a limit of memory` };
}

function edits(pod) {
  const labels = pod.metadata.labels;
  if (config.team === undefined || labels?.team !== undefined) return [];
  console.log(`${pod.metadata.name} goes to team ${config.team}`);
  return labels === undefined
    ? [{ op: "add", path: "/metadata/labels", value: JSON.stringify({ team: config.team }) }]
    : [{ op: "add", path: "/metadata/labels/team", value: JSON.stringify(config.team) }];
}

function verdict(parts) {
  return { refusal: undefined, edits: [], warnings: [], auditAnnotations: [], ...parts };
}
