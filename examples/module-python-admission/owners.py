"""What is decided, without WebAssembly: the tests run it as it is."""


def owner(service):
    """Who answers for it: its annotation."""
    return service["metadata"].get("annotations", {}).get("owner", "")


def refusal(service, user_name, config):
    """Why it may not be stored; None when it may."""
    name = owner(service)
    if not name:
        return "a Service must have an annotation owner"
    domain = config.get("domain", "")
    return None if name.endswith(domain) else f"{user_name} names {name}, who is not of {domain}"
