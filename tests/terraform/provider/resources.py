"""What AWS and its provider do with each resource."""

import base64
import contextlib
import copy
import random
import time

import policy
from values import UNKNOWN, known
from world import Refused, changing, everything, named, new_id

# IAM user guide, "IAM and AWS STS quotas": managed policies.
POLICY_LIMIT = 6144
# EC2 user guide, "Run commands when you launch an EC2 instance": before the encoding.
USER_DATA_LIMIT = 16384


class Resource:
    """Kept under its id, as planned."""

    kind = ""

    def __init__(self, block, provider):
        self.block = block
        self.provider = provider

    # Planning.

    def refine(self, prior, planned, changes):
        """What else the plan changes. `prior` is None for what is created. Returns paths that replace the resource."""
        return []

    def recomputed(self, changes):
        """Computed attributes that are known only after an update that changes these."""
        return []

    # Acting. `world` is all of AWS.

    changing = staticmethod(changing)
    aws = staticmethod(everything)

    def identity(self, world, planned):
        """The new object's id, and what AWS says of it."""
        raise NotImplementedError

    def arn(self, world, service, rest, region=True):
        return f"arn:aws:{service}:{self.provider.region if region else ''}:{world['account']}:{rest}"

    def store(self, world, key, value):
        world.setdefault(self.kind, {})[key] = value

    def create(self, world, planned, settle):
        key, computed = self.identity(world, planned)
        if key in world.get(self.kind, {}):
            raise Refused(f"AlreadyExists: {self.kind} {key}")
        self.store(world, key, settle({**planned, "id": key}, computed))
        return key

    def update(self, world, prior, planned, settle):
        """Sends what the plan changes; the rest stays as it is in AWS by now."""
        named(world, self.kind, prior["id"])
        current = self.read(world, prior["id"], prior)
        value = {name: current.get(name) if planned[name] == prior[name] else planned[name] for name in planned}
        self.store(world, prior["id"], settle(self.merge(current, prior, value), {}))

    def merge(self, current, prior, value):
        """What a change of only takes away and adds, of lists that others write to as well."""
        return value

    def before_delete(self):
        """Waits as AWS does, while other resources go on."""

    def delete(self, world, prior):
        world.get(self.kind, {}).pop(prior["id"], None)

    def read(self, world, key, prior):
        """As the state has it, or None. `prior` is None for an import."""
        return copy.deepcopy(world.get(self.kind, {}).get(key))


class Tagged(Resource):
    """AWS keeps all tags together; the provider tells its default ones from the resource's own."""

    def refine(self, prior, planned, changes):
        tags = planned["tags"]
        planned["tags_all"] = (
            UNKNOWN if tags is UNKNOWN or not known(tags or {}) else {**self.provider.default_tags, **(tags or {})}
        )
        return []

    def merge(self, current, prior, value):
        gone = set(prior["tags_all"]) - set(value["tags_all"])
        kept = {name: tag for name, tag in current["tags_all"].items() if name not in gone}
        return {**value, "tags_all": {**kept, **value["tags_all"]}}

    def store(self, world, key, value):
        kept = {**value, "tags": value["tags_all"]}
        del kept["tags_all"]
        super().store(world, key, kept)

    def read(self, world, key, prior):
        kept = super().read(world, key, prior)
        if kept is None:
            return None
        defaults, own = self.provider.default_tags, (prior or {}).get("tags") or {}
        shown = {name: value for name, value in kept["tags"].items() if defaults.get(name) != value or name in own}
        # None and nothing are the same to the provider, which keeps what the state has.
        return {**kept, "tags": shown or (prior or {}).get("tags"), "tags_all": kept["tags"]}


class Named(Tagged):
    """Has its name for its id, which no other may have."""

    def identity(self, world, planned):
        return planned["name"], {}


class Volume(Tagged):
    kind = "aws_ebs_volume"

    def identity(self, world, planned):
        key = new_id(world, "vol")
        gp3 = planned["type"] == "gp3"
        return key, {
            "arn": self.arn(world, "ec2", f"volume/{key}"),
            "create_time": "2026-01-01T00:00:00Z",
            "iops": 3000 if gp3 else 100,
            "kms_key_id": self.arn(world, "kms", "key/aws-ebs") if planned["encrypted"] else "",
            "throughput": 125 if gp3 else 0,
            "type": "gp2",
        }


class Interface(Tagged):
    kind = "aws_network_interface"

    def refine(self, prior, planned, changes):
        super().refine(prior, planned, changes)
        # The provider's CustomizeDiff: the first address stays as long as it is wanted.
        if prior and ("private_ips",) in changes and not set(prior["private_ip_list"]) & set(planned["private_ips"]):
            return [("private_ips",)]
        return []

    def recomputed(self, changes):
        return ["private_ip_list", "private_ips_count"] if ("private_ips",) in changes else []

    def identity(self, world, planned):
        subnet = named(world, "subnets", planned["subnet_id"])
        for other in world.get(self.kind, {}).values():
            if other["subnet_id"] == planned["subnet_id"] and set(other["private_ips"]) & set(planned["private_ips"]):
                raise Refused(f"InvalidIPAddress.InUse: {planned['private_ips']} in {planned['subnet_id']}")
        key, address = new_id(world, "eni"), planned["private_ips"][0]
        return key, {
            "arn": self.arn(world, "ec2", f"network-interface/{key}"),
            "interface_type": "interface",
            "mac_address": "02:00:00:00:00:01",
            "owner_id": world["account"],
            "private_dns_name": f"ip-{address.replace('.', '-')}.{subnet['availability_zone'][:-1]}.compute.internal",
            "private_ip": address,
            "private_ip_list": planned["private_ips"],
            "private_ips_count": len(planned["private_ips"]) - 1,
        }

    def delete(self, world, prior):
        # An instance of a group has it as long as the group is there.
        for template in world.get("aws_launch_template", {}).values():
            names = [i["network_interface_id"] for i in template["versions"][-1]["network_interfaces"]]
            groups = world.get("aws_autoscaling_group", {}).values()
            if prior["id"] in names and any(group["launch_template"][0]["id"] == template["id"] for group in groups):
                raise Refused(f"InvalidParameterValue: {prior['id']} is currently in use")
        super().delete(world, prior)


class Template(Tagged):
    """AWS keeps versions; the provider shows the latest."""

    kind = "aws_launch_template"
    # Of the template, not of a version.
    OWN = {
        "arn", "default_version", "id", "latest_version", "name", "name_prefix", "region", "tags", "tags_all",
        "update_default_version",
    }

    # The provider's CustomizeDiff: a change of only these leaves the latest version known. One of tags does not, though it makes
    # no version.
    QUIET = {"default_version", "description", "name", "name_prefix", "update_default_version"}

    def recomputed(self, changes):
        return ["latest_version"] if {path[0] for path in changes} - self.QUIET else []

    def identity(self, world, planned):
        if any(other["name"] == planned["name"] for other in world.get(self.kind, {}).values()):
            raise Refused(f"InvalidLaunchTemplateName.AlreadyExistsException: {planned['name']}")
        key = new_id(world, "lt")
        return key, {
            "arn": self.arn(world, "ec2", f"launch-template/{key}"),
            "default_version": 1,
            "latest_version": 1,
        }

    def store(self, world, key, value):
        size = len(base64.b64decode(value["user_data"] or "", validate=True))
        if size > USER_DATA_LIMIT:
            raise Refused(f"InvalidUserData.Malformed: User data is limited to 16384 bytes, and is {size}")
        own = {name: value[name] for name in self.OWN}
        version = {name: v for name, v in value.items() if name not in self.OWN}
        versions = world.get(self.kind, {}).get(key, {}).get("versions", [])
        if not versions or versions[-1] != version:
            versions = [*versions, version]
        own["latest_version"] = len(versions)
        super().store(world, key, {**own, "versions": versions})

    def read(self, world, key, prior):
        kept = super().read(world, key, prior)
        if kept is None:
            return None
        versions = kept.pop("versions")
        return {**kept, **versions[-1], "latest_version": len(versions)}


class Group(Resource):
    kind = "aws_autoscaling_group"

    def identity(self, world, planned):
        specification = (planned["launch_template"] or [{}])[0]
        template = named(world, "aws_launch_template", specification["id"])
        key = planned["name"]
        return key, {
            "arn": self.arn(world, "autoscaling", f"autoScalingGroup:00000000:autoScalingGroupName/{key}"),
            "default_cooldown": 300,
            "desired_capacity": planned["min_size"],
            "health_check_type": "EC2",
            "launch_template.": {"name": template["name"]},
            "service_linked_role_arn": self.arn(
                world, "iam", "role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling", region=False
            ),
        }

    def merge(self, current, prior, value):
        # As it does for tags of other resources, the provider deletes those of the old state and writes those of the new.
        keys = {tag["key"] for tag in value["tag"]}
        gone = {tag["key"] for tag in prior["tag"]} | keys
        return {**value, "tag": [tag for tag in current["tag"] if tag["key"] not in gone] + value["tag"]}

    def store(self, world, key, value):
        for specification in value["launch_template"]:
            template = named(world, "aws_launch_template", specification["id"])
            version = specification["version"]
            if not version.startswith("$") and not 1 <= int(version) <= len(template["versions"]):
                raise Refused(f"ValidationError: {template['name']} has no version {version}")
        before = world.get(self.kind, {}).get(key)
        kept = dict(value)
        # The provider puts hooks when it creates a group, and never reads them.
        hooks = before["hooks"] if before else {hook["name"]: hook for hook in value["initial_lifecycle_hook"]}
        super().store(world, key, {**kept, "hooks": hooks})

    def read(self, world, key, prior):
        kept = super().read(world, key, prior)
        if kept is None:
            return None
        del kept["hooks"]
        # Its initial hooks are what the state has: AWS does not know which those were.
        return {**kept, "initial_lifecycle_hook": (prior or {}).get("initial_lifecycle_hook", [])}


    def before_delete(self):
        # It ends with its instance, which takes minutes.
        time.sleep(self.aws().get("seconds_to_delete_a_group", 0))


class GroupTag(Resource):
    kind = "aws_autoscaling_group_tag"

    def _tags(self, world, value):
        return named(world, "aws_autoscaling_group", value["autoscaling_group_name"])["tag"]

    def create(self, world, planned, settle):
        # A tag that is there is overwritten.
        self.update(world, None, planned, settle)
        return f"{planned['autoscaling_group_name']},{planned['tag'][0]['key']}"

    def update(self, world, prior, planned, settle):
        tags, tag = self._tags(world, planned), planned["tag"][0]
        tags[:] = [other for other in tags if other["key"] != tag["key"]] + [tag]

    def delete(self, world, prior):
        if prior["autoscaling_group_name"] in world.get("aws_autoscaling_group", {}):
            tags = self._tags(world, prior)
            tags[:] = [other for other in tags if other["key"] != prior["tag"][0]["key"]]

    def read(self, world, key, prior):
        group, _, name = key.rpartition(",")
        tags = world.get("aws_autoscaling_group", {}).get(group, {}).get("tag", [])
        found = [tag for tag in tags if tag["key"] == name]
        region = (prior or {}).get("region", self.provider.region)
        return {"id": key, "region": region, "autoscaling_group_name": group, "tag": found} if found else None


class Hook(Resource):
    kind = "aws_autoscaling_lifecycle_hook"

    def create(self, world, planned, settle):
        self.update(world, None, planned, settle)
        return planned["name"]

    def update(self, world, prior, planned, settle):
        group = named(world, "aws_autoscaling_group", planned["autoscaling_group_name"])
        hook = settle({**planned, "id": planned["name"]}, {"default_result": "ABANDON"})
        group["hooks"][hook["name"]] = hook

    def delete(self, world, prior):
        group = world.get("aws_autoscaling_group", {}).get(prior["autoscaling_group_name"], {"hooks": {}})
        group["hooks"].pop(prior["name"], None)

    def read(self, world, key, prior):
        group = world.get("aws_autoscaling_group", {}).get(prior["autoscaling_group_name"], {"hooks": {}})
        found = group["hooks"].get(key)
        return {**prior, **found} if found else None


class Role(Named):
    kind = "aws_iam_role"

    def identity(self, world, planned):
        name = planned["name"]
        return name, {"arn": self.arn(world, "iam", f"role/{name}", region=False), "unique_id": new_id(world, "AROA")}


class Profile(Named):
    kind = "aws_iam_instance_profile"

    def identity(self, world, planned):
        named(world, "aws_iam_role", planned["role"])
        name = planned["name"]
        return name, {"arn": self.arn(world, "iam", f"instance-profile/{name}", region=False)}


class Policy(Named):
    kind = "aws_iam_policy"

    def identity(self, world, planned):
        arn = self.arn(world, "iam", f"policy/{planned['name']}", region=False)
        return arn, {"arn": arn, "policy_id": new_id(world, "ANPA")}

    def store(self, world, key, value):
        size = policy.size(value["policy"])
        if size > POLICY_LIMIT:
            raise Refused(f"LimitExceeded: Cannot exceed quota for PolicySize: {POLICY_LIMIT}; {key} has {size}")
        super().store(world, key, value)


class Attachment(Resource):
    kind = "aws_iam_role_policy_attachment"

    def identity(self, world, planned):
        named(world, "aws_iam_role", planned["role"])
        if ":iam::aws:policy/" not in planned["policy_arn"]:
            named(world, "aws_iam_policy", planned["policy_arn"])
        return f"{planned['role']}-{planned['policy_arn']}", {}


class RolePolicy(Resource):
    kind = "aws_iam_role_policy"

    def identity(self, world, planned):
        named(world, "aws_iam_role", planned["role"])
        return f"{planned['role']}:{planned['name']}", {}


class Project(Tagged):
    kind = "aws_codebuild_project"

    def identity(self, world, planned):
        role = planned["service_role"].rsplit("/", 1)[-1]
        named(world, "aws_iam_role", role)
        arn = self.arn(world, "codebuild", f"project/{planned['name']}")
        return arn, {"arn": arn, "auto_retry_limit": 0, "badge_url": "", "encryption_key": "", "public_project_alias": ""}


class Null(Resource):
    """Of the null provider. It keeps nothing anywhere; Terraform itself runs its provisioners."""

    kind = "null_resource"
    changing = staticmethod(contextlib.nullcontext)
    aws = staticmethod(dict)

    def create(self, world, planned, settle):
        return str(random.getrandbits(63))

    def update(self, world, prior, planned, settle):
        pass

    def delete(self, world, prior):
        pass

    def read(self, world, key, prior):
        return {**prior, "id": key}


ALL = {
    resource.kind: resource
    for resource in (
        Volume, Interface, Template, Group, GroupTag, Hook, Role, Profile, Policy, RolePolicy, Attachment, Project, Null,
    )
}
