"""The controller as Pintle calls it: wit/module.wit says what goes in and what comes out."""

import json

from wit_world import exports
from wit_world.exports import controller

import greeting

CONFIG = {}


class Controller(exports.Controller):
    def start(self, hello):
        CONFIG.update(json.loads(hello.config))

    def reconcile(self, request):
        nothing = controller.Plan(writes=[], events=[], requeue_after_millis=None)
        if request.object is None:
            return nothing
        namespace = json.loads(request.object)
        config_maps = [json.loads(text) for related in request.related for text in related.objects]
        config_map = greeting.missing(namespace, config_maps, CONFIG)
        if config_map is None:
            return nothing
        name = namespace["metadata"]["name"]
        print(f"greeting {name}")
        target = controller.ObjectRef(group="", resource="configmaps", namespace=name, name="greeting", uid="")
        patch = controller.Patch(controller.PatchKind.APPLY, json.dumps(config_map))
        return controller.Plan([controller.Write(target, "", controller.Action_Patch(patch))], [], None)
