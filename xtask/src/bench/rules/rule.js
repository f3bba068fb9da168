// The check that the bench asks of every language: images say which version they are.
export const admission = {
  start() {},

  review({ object }) {
    const spec = JSON.parse(object ?? "null")?.spec;
    const containers = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])];
    const wrong = containers.find(({ image }) => !pinned(image ?? ""));
    const message = wrong && `image ${wrong.image} must have a tag other than latest, or a digest`;
    return { refusal: wrong && { code: 0, reason: "", message }, edits: [], warnings: [], auditAnnotations: [] };
  },
};

function pinned(image) {
  const tag = image.slice(image.lastIndexOf("/") + 1).split(":")[1];
  return image.includes("@") || (Boolean(tag) && tag !== "latest");
}
