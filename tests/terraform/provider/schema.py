"""The schemas of one provider: provider-schema.json and facts.py together, as objects and as messages of the protocol."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tf.gen import tfplugin_pb2 as pb

import facts

NESTING = pb.Schema.NestedBlock.NestingMode


@dataclass
class Attribute:
    """`kind` is a type as provider-schema.json has it: `string`, `set string`, `map string`, …"""

    kind: str
    required: bool = False
    optional: bool = False
    computed: bool = False
    replaces: bool = False
    default: object = None

    def message(self, name):
        *outer, element = [json.dumps(part) for part in self.kind.split()]
        kind = f"[{outer[0]},{element}]" if outer else element
        return pb.Schema.Attribute(
            name=name, type=kind.encode(), required=self.required, optional=self.optional, computed=self.computed
        )


@dataclass
class Block:
    """Attributes and blocks by name. `nesting` is empty at the top."""

    attributes: dict = field(default_factory=dict)
    blocks: dict = field(default_factory=dict)
    nesting: str = ""
    one: bool = False
    required: bool = False
    computed: bool = False
    replaces: bool = False

    def message(self):
        return pb.Schema.Block(
            attributes=[attribute.message(name) for name, attribute in self.attributes.items()],
            block_types=[block.nested(name) for name, block in self.blocks.items()],
        )

    def nested(self, name):
        many = self.nesting != "single"
        return pb.Schema.NestedBlock(
            type_name=name,
            block=self.message(),
            nesting=NESTING.Value(self.nesting.upper()),
            min_items=1 if many and self.required else 0,
            max_items=1 if many and self.one else 0,
        )


def read(provider):
    """The provider's own configuration, its resources and its data sources."""
    everything = json.loads((Path(__file__).parents[1] / "provider-schema.json").read_text())
    mine = {
        kind: {name: known for name, known in everything[kind].items() if name.split("_")[0] == provider}
        for kind in ("provider", "resource", "data")
    }
    resources = {name: _resource(known, facts.RESOURCES.get(name, {})) for name, known in mine["resource"].items()}
    data = {name: _data(known, facts.DATA.get(name, {})) for name, known in mine["data"].items()}
    return _block(mine["provider"][provider]["arguments"], _Facts({}), ""), resources, data


class _Facts:
    def __init__(self, known):
        self.computed = set(known.get("computed", "").split())
        self.replaces = set(known.get("replaces", "").split())
        self.defaults = known.get("defaults", {})
        self.used = set()


def _resource(known, about):
    about = _Facts(about)
    about.computed |= {"id", "region"} | ({"tags_all"} if "tags" in known["arguments"] else set())
    top = _block({**known["arguments"], **known["computed"]}, about, "")
    unknown = (about.computed | about.replaces | set(about.defaults)) - about.used - {"id", "region"}
    assert not unknown, f"facts.py names what there is not: {unknown}"
    return top


def _data(known, about):
    top = _block({**known["arguments"], **known["computed"]}, _Facts(about), "")
    for attribute in top.attributes.values():
        attribute.computed = not attribute.required
    return top


def _block(known, about, prefix):
    nests, _, rest = known.get("*", "").partition(" ")
    block = Block(nesting=nests, one="one" in rest, required="required" in rest)
    for name, of in known.items():
        path = prefix + name
        about.used.add(path)
        if name == "*":
            continue
        if isinstance(of, dict):
            block.blocks[name] = inner = _block(of, about, f"{path}.")
            inner.computed = path in about.computed
            inner.replaces = path in about.replaces
            continue
        *kind, last = of.split()
        known_last = last in ("required", "computed")
        default = about.defaults.get(path)
        block.attributes[name] = Attribute(
            kind=" ".join(kind) if known_last else of,
            required=last == "required",
            optional=not known_last,
            # A default is planned by the provider, which Terraform takes only for what is computed.
            computed=last == "computed" or path in about.computed or default is not None,
            replaces=path in about.replaces,
            default=default,
        )
    return block
