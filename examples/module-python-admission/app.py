"""The rule as Pintle calls it: wit/module.wit says what goes in and what comes out."""

import json

from wit_world import exports
from wit_world.exports import admission

import owners

CONFIG = {}


class Admission(exports.Admission):
    def start(self, hello):
        CONFIG.update(json.loads(hello.config))

    def review(self, request):
        passes = admission.Verdict(refusal=None, edits=[], warnings=[], audit_annotations=[])
        if request.object is None:
            return passes
        message = owners.refusal(json.loads(request.object), request.user_name, CONFIG)
        if message is not None:
            print(f"{request.target.namespace}/{request.target.name}: {message}")
            passes.refusal = admission.Refusal(code=0, reason="", message=message)
        return passes
