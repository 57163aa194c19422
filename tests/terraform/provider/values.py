"""Values as the protocol carries them (MessagePack), as Python's own; and what a plan makes of them."""

import msgpack
from tf.gen import tfplugin_pb2 as pb


class _Unknown:
    """Known only after the apply."""

    def __repr__(self):
        return "(known after apply)"

    def __deepcopy__(self, _memo):
        return self


UNKNOWN = _Unknown()
ZERO = {"string": "", "number": 0, "bool": False, "list": [], "set": [], "map": {}}


def decode(message):
    # Terraform may add what it knows of an unknown value, in another extension: still unknown.
    return msgpack.unpackb(message.msgpack, ext_hook=lambda _code, _data: UNKNOWN, strict_map_key=False)


def encode(value):
    def default(_unknown):
        return msgpack.ExtType(0, b"\0")

    return pb.DynamicValue(msgpack=msgpack.packb(value, default=default))


def known(value):
    """Whether all of it is known."""
    if isinstance(value, dict):
        return all(known(v) for v in value.values())
    if isinstance(value, list):
        return all(known(v) for v in value)
    return value is not UNKNOWN


def items(block, value):
    """A nested block's objects, however it nests."""
    if value is None or value is UNKNOWN:
        return []
    return [value] if block.nesting == "single" else value


def same(kind, a, b):
    """Equal as Terraform compares: the order of a set does not count."""
    if kind.startswith("set") and isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(item in b for item in a)
    return a == b


def plan(block, config, prior, proposed):
    """What Terraform proposes, with what the provider adds: defaults, and what is known only after the apply.

    `prior` is None for what is created. Terraform has carried over from the prior state what is computed and left out.
    """
    planned = dict(proposed)
    for name, attribute in block.attributes.items():
        if config.get(name) is None and attribute.computed:
            if attribute.default is not None:
                planned[name] = attribute.default
            elif prior is None:
                planned[name] = UNKNOWN
    for name, inner in block.blocks.items():
        given = items(inner, config.get(name))
        if not given:
            # A block cannot be unknown as a whole; what is computed appears in the state after the apply.
            if inner.computed and prior is not None:
                planned[name] = prior[name]
            continue
        before = items(inner, prior and prior[name])
        now = []
        for index, mine in enumerate(given):
            if inner.nesting == "set":
                old = _twin(inner, mine, before)
            else:
                old = before[index] if index < len(before) else None
            merged = dict(mine)
            for key, attribute in inner.attributes.items():
                if mine.get(key) is None and attribute.computed and old is not None:
                    merged[key] = old[key]
            now.append(plan(inner, mine, old, merged))
        planned[name] = now[0] if inner.nesting == "single" else now
    return planned


def _twin(block, mine, before):
    """The object of the prior set that this one is, by all that the configuration says."""
    given = [key for key in block.attributes if mine.get(key) is not None]
    return next((old for old in before if all(old[key] == mine[key] for key in given)), None)


def changed(block, prior, planned):
    """The paths that differ, and of these the ones that replace the resource."""
    paths, replacing = [], []
    for name, attribute in block.attributes.items():
        if not same(attribute.kind, prior[name], planned[name]):
            paths.append((name,))
            if attribute.replaces:
                replacing.append((name,))
    for name, inner in block.blocks.items():
        before, now = items(inner, prior[name]), items(inner, planned[name])
        if same(inner.nesting, before, now):
            continue
        paths.append((name,))
        if inner.replaces:
            replacing.append((name,))
        elif inner.nesting == "list":
            for index, (old, new) in enumerate(zip(before, now)):
                replacing += [(name, index, *path) for path in changed(inner, old, new)[1]]
    return paths, replacing


def settle(block, value, computed):
    """After an apply nothing is unknown: what the resource says itself, and AWS's nothing for the rest."""
    settled = dict(value)
    for name, attribute in block.attributes.items():
        if settled.get(name) is UNKNOWN:
            settled[name] = computed.get(name, ZERO[attribute.kind.split()[0]])
    for name, inner in block.blocks.items():
        if inner.nesting == "single":
            continue
        now = settled.get(name) or []
        if not now and name in computed:
            now = computed[name]
        settled[name] = [settle(inner, each, computed.get(f"{name}.", {})) for each in now]
    return settled


def empty(block):
    """An object of the block with nothing in it."""
    return {
        **{name: None for name in block.attributes},
        **{name: None if inner.nesting == "single" else [] for name, inner in block.blocks.items()},
    }
