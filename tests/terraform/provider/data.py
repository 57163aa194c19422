"""The data sources: each answers with the attributes that are not nothing."""

import policy
import world
from world import Refused


def caller_identity(provider, config):
    account = world.everything()["account"]
    return {"account_id": account, "arn": f"arn:aws:iam::{account}:user/tests", "user_id": "AIDATESTS", "id": account}


def default_tags(provider, config):
    return {"tags": provider.default_tags, "id": "aws"}


def iam_policy(provider, config):
    found = world.read("aws_iam_policy", config["arn"])
    if found is None:
        raise Refused(f"no IAM policy {config['arn']}")
    return {name: found[name] for name in ("arn", "name", "path", "policy", "policy_id", "tags")} | {"id": found["arn"]}


def iam_policy_document(provider, config):
    rendered = policy.document(config)
    return {**rendered, "id": str(sum(rendered["json"].encode()))}


def partition(provider, config):
    return {"partition": "aws", "dns_suffix": "amazonaws.com", "reverse_dns_prefix": "com.amazonaws", "id": "aws"}


def region(provider, config):
    name = config["region"] or config["name"] or provider.region
    return {"id": name, "name": name, "region": name, "endpoint": f"ec2.{name}.amazonaws.com", "description": name}


def subnet(provider, config):
    found = world.read("subnets", config["id"])
    if found is None:
        raise Refused(f"InvalidSubnetID.NotFound: {config['id']}")
    return found


ALL = {
    "aws_caller_identity": caller_identity,
    "aws_default_tags": default_tags,
    "aws_iam_policy": iam_policy,
    "aws_iam_policy_document": iam_policy_document,
    "aws_partition": partition,
    "aws_region": region,
    "aws_subnet": subnet,
}
