"""The check that the bench asks of every language: images say which version they are."""


def pinned(image):
    tag = image.rsplit("/", 1)[-1].partition(":")[2]
    return "@" in image or tag not in ("", "latest")


def refusal(pod, _user_name, _config):
    """Why it may not be stored; None when it may."""
    spec = pod["spec"]
    for container in spec.get("containers", []) + spec.get("initContainers", []):
        if not pinned(container.get("image", "")):
            return f"image {container.get('image')} must have a tag other than latest, or a digest"
    return None
