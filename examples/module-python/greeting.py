"""What is decided, without WebAssembly: the tests run it as it is."""


def wanted(namespace, config):
    """The ConfigMap that greets who the namespace's label names."""
    name = namespace["metadata"].get("labels", {}).get("greet", "nobody")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "greeting", "namespace": namespace["metadata"]["name"]},
        "data": {"text": f"{config.get('greeting', 'Hello')}, {name}!"},
    }


def missing(namespace, config_maps, config):
    """What has to be applied: nothing when it is there, or when the namespace is on its way out."""
    greeting = wanted(namespace, config)
    there = any(c["metadata"]["name"] == "greeting" and c.get("data") == greeting["data"] for c in config_maps)
    return None if there or namespace["metadata"].get("deletionTimestamp") else greeting
