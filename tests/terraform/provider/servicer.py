"""The provider's side of Terraform's plugin protocol, version 6.

The package `tf` brings the protocol's messages. Its own servicer is not used: it knows neither nested lists nor what the
configuration left out, plans defaults and computed values by itself, and cannot say that a value becomes unknown by an update.
"""

import json
import os

from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

import data
import resources
import schema
import world
from values import UNKNOWN, changed, decode, empty, encode, plan, settle


class Provider(rpc.ProviderServicer):
    def __init__(self, name):
        self.region = ""
        self.default_tags = {}
        self.configuration, self.blocks, self.data_blocks = schema.read(name)
        self.resources = {kind: resources.ALL[kind](block, self) for kind, block in self.blocks.items()}

    # What there is.

    def GetProviderSchema(self, request, context):
        def message(block):
            return pb.Schema(version=0, block=block.message())

        return pb.GetProviderSchema.Response(
            provider=message(self.configuration),
            resource_schemas={kind: message(block) for kind, block in self.blocks.items()},
            data_source_schemas={kind: message(block) for kind, block in self.data_blocks.items()},
            server_capabilities=pb.ServerCapabilities(get_provider_schema_optional=True),
        )

    def GetMetadata(self, request, context):
        return pb.GetMetadata.Response()

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        config = decode(request.config)
        self.region = config.get("region") or os.environ.get("AWS_REGION", "")
        for block in config.get("default_tags") or []:
            self.default_tags = block["tags"] or {}
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        state = json.loads(request.raw_state.json)
        return pb.UpgradeResourceState.Response(upgraded_state=encode(state))

    # A resource's life.

    def PlanResourceChange(self, request, context):
        block, resource = self.blocks[request.type_name], self.resources[request.type_name]
        prior, proposed = decode(request.prior_state), decode(request.proposed_new_state)
        planned = plan(block, decode(request.config), prior, proposed)
        if planned.get("region") is UNKNOWN:
            planned["region"] = self.region
        changes = changed(block, prior, planned)[0] if prior else []
        replacing = resource.refine(prior, planned, changes)
        if prior:
            changes, by_schema = changed(block, prior, planned)
            replacing += by_schema
            for name in resource.recomputed(changes):
                planned[name] = UNKNOWN
        return pb.PlanResourceChange.Response(
            planned_state=encode(planned), requires_replace=[_path(path) for path in replacing]
        )

    def ApplyResourceChange(self, request, context):
        block, resource = self.blocks[request.type_name], self.resources[request.type_name]
        prior, planned = decode(request.prior_state), decode(request.planned_state)

        def settled(value, computed):
            return settle(block, value, computed)

        try:
            if planned is None:
                resource.before_delete()
            with resource.changing() as aws:
                if planned is None:
                    resource.delete(aws, prior)
                    return pb.ApplyResourceChange.Response(new_state=encode(None))
                if prior is None:
                    key = resource.create(aws, planned, settled)
                else:
                    resource.update(aws, prior, planned, settled)
                    key = prior["id"]
                state = _shown(block, resource.read(aws, key, planned), planned)
        except world.Refused as refused:
            return pb.ApplyResourceChange.Response(new_state=encode(prior), diagnostics=[_error(refused)])
        return pb.ApplyResourceChange.Response(new_state=encode(state))

    def ReadResource(self, request, context):
        block, resource = self.blocks[request.type_name], self.resources[request.type_name]
        prior = decode(request.current_state)
        found = resource.read(resource.aws(), prior["id"], prior)
        return pb.ReadResource.Response(new_state=encode(found and _shown(block, found, prior)))

    def ImportResourceState(self, request, context):
        block, resource = self.blocks[request.type_name], self.resources[request.type_name]
        found = resource.read(resource.aws(), request.id, None)
        if found is None:
            missing = world.Refused(f"Cannot import non-existent remote object: {request.type_name} {request.id}")
            return pb.ImportResourceState.Response(diagnostics=[_error(missing)])
        imported = pb.ImportResourceState.ImportedResource(
            type_name=request.type_name, state=encode(_defaults(block, _shown(block, found, empty(block))))
        )
        return pb.ImportResourceState.Response(imported_resources=[imported])

    def ReadDataSource(self, request, context):
        block, config = self.data_blocks[request.type_name], decode(request.config)
        try:
            filled = _defaults(block, config)
            answer = data.ALL[request.type_name](self, filled)
        except world.Refused as refused:
            return pb.ReadDataSource.Response(diagnostics=[_error(refused)])
        return pb.ReadDataSource.Response(state=encode({**filled, **{k: answer[k] for k in block.attributes if k in answer}}))

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


def _defaults(block, config):
    """With the defaults of what is left out."""
    filled = {name: block.attributes[name].default if config[name] is None else config[name] for name in block.attributes}
    for name, inner in block.blocks.items():
        given = config[name]
        filled[name] = given if inner.nesting == "single" else [_defaults(inner, each) for each in given]
    return filled


def _shown(block, found, prior):
    """An object of AWS as the state has it: what AWS does not know stays as the configuration had it."""
    names = [*block.attributes, *block.blocks]
    return {name: found[name] if name in found else prior[name] for name in names}


def _path(path):
    steps = [
        pb.AttributePath.Step(element_key_int=step) if isinstance(step, int) else pb.AttributePath.Step(attribute_name=step)
        for step in path
    ]
    return pb.AttributePath(steps=steps)


def _error(refused):
    return pb.Diagnostic(severity=pb.Diagnostic.ERROR, summary=str(refused))
