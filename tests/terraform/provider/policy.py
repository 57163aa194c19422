"""Policy documents as aws_iam_policy_document renders them (internal/service/iam/policy_model.go), and as IAM counts them."""

import json


def _strings(values):
    """One stands alone, several in reverse order."""
    values = sorted(values, reverse=True)
    return values[0] if len(values) == 1 else values


def _variables(values):
    replaced = [value.replace("&{", "${") for value in ([values] if isinstance(values, str) else values)]
    return replaced[0] if isinstance(values, str) else replaced


def _principals(blocks):
    if len(blocks) == 1 and blocks[0]["type"] == "*" and list(blocks[0]["identifiers"]) == ["*"]:
        return "*"
    by_type = {}
    for block in blocks:
        by_type.setdefault(block["type"], []).extend(block["identifiers"])
    return {kind: _strings(by_type[kind]) for kind in sorted(by_type)}


def _conditions(blocks):
    tests = {}
    for block in blocks:
        tests.setdefault(block["test"], {}).setdefault(block["variable"], []).extend(_variables(block["values"]))
    return {
        test: {name: values[0] if len(values) == 1 else values for name, values in sorted(tests[test].items())}
        for test in sorted(tests)
    }


def _statement(block):
    said = {"Sid": block["sid"], "Effect": block["effect"]}
    for key, name in (("Action", "actions"), ("NotAction", "not_actions")):
        said[key] = _strings(block[name]) if block[name] else None
    for key, name in (("Resource", "resources"), ("NotResource", "not_resources")):
        said[key] = _variables(_strings(block[name])) if block[name] else None
    for key, name in (("Principal", "principals"), ("NotPrincipal", "not_principals")):
        said[key] = _principals(block[name]) if block[name] else None
    said["Condition"] = _conditions(block["condition"]) if block["condition"] else None
    return {key: value for key, value in said.items() if value}


def document(config):
    """The attributes `json` and `minified_json`."""
    whole = {"Version": config["version"], "Id": config["policy_id"], "Statement": []}
    # Sources, the document's own, overrides: a later statement takes the place of one with the same Sid.
    for source in config["source_policy_documents"] or []:
        whole["Statement"] += json.loads(source)["Statement"]
    own = [_statement(block) for block in config["statement"]]
    overrides = [json.loads(text)["Statement"] for text in config["override_policy_documents"] or []]
    for statement in [*own, *(one for many in overrides for one in many)]:
        at = [i for i, there in enumerate(whole["Statement"]) if statement.get("Sid") and there.get("Sid") == statement["Sid"]]
        if at:
            whole["Statement"][at[0]] = statement
        else:
            whole["Statement"].append(statement)
    whole = {key: value for key, value in whole.items() if value}
    return {"json": _go(whole, indent=2), "minified_json": _go(whole, separators=(",", ":"))}


def _go(value, **form):
    """As Go's encoder writes it."""
    text = json.dumps(value, ensure_ascii=False, **form)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def size(text):
    """IAM counts no white space (IAM user guide, "IAM and AWS STS quotas")."""
    return sum(not char.isspace() for char in text)
