"""AWS, as a JSON file whose path is in STUB_AWS. Tests edit the file to make drift: what is read is what the file says then.

    {"account": "123456789012",
     "subnets": {"subnet-1": {"availability_zone": "eu-central-1a", …}},
     "aws_ebs_volume": {"vol-…": {…, "tags": {…}}}, …}

An object has the names of the provider's attributes. What AWS keeps in another way than the provider shows it, resources.py
converts.
"""

import contextlib
import json
import os
import threading
from pathlib import Path

_lock = threading.RLock()
_path = Path(os.environ.get("STUB_AWS", "/nonexistent"))


class Refused(Exception):
    """AWS answers with an error."""


def _load():
    return json.loads(_path.read_text())


def read(kind, key):
    """The object, or None."""
    with _lock:
        return _load().get(kind, {}).get(key)


def everything():
    with _lock:
        return _load()


@contextlib.contextmanager
def changing():
    """All of it, to change. Written when the block ends, whole or not at all."""
    with _lock:
        world = _load()
        yield world
        draft = _path.with_name(f"{_path.name}.draft")
        draft.write_text(json.dumps(world, indent=1, sort_keys=True))
        draft.replace(_path)


def named(world, kind, key):
    """The object, which must be there."""
    try:
        return world[kind][key]
    except KeyError:
        raise Refused(f"{kind} {key} does not exist") from None


def new_id(world, prefix):
    """Ids count up, so that runs compare."""
    world["ids"] = world.get("ids", 0) + 1
    return f"{prefix}-{world['ids']:017x}"
