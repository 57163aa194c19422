"""What the schema that provider-schema.js writes does not tell.

Three things of each resource, from its source in hashicorp/terraform-provider-aws (the file is named at each; the files read are of
several versions): what is computed where the configuration leaves it out, what a change of replaces the resource, and what is
the default. Only what this project's module, or the module that it takes the place of, sets or reads has been looked up. A path
into a block is written with dots.

Every resource with `tags` has `tags_all`, and every resource an `id`; schema.py adds those.
"""

RESOURCES = {
    # internal/service/autoscaling/group.go
    "aws_autoscaling_group": {
        "computed": (
            "availability_zones default_cooldown desired_capacity health_check_type initial_lifecycle_hook.default_result "
            "launch_template launch_template.id launch_template.name launch_template.version load_balancers "
            "mixed_instances_policy name name_prefix service_linked_role_arn target_group_arns traffic_source "
            "vpc_zone_identifier"
        ),
        # A change of the block, or of anything in it, replaces the group and with it the node.
        "replaces": "initial_lifecycle_hook name name_prefix",
        "defaults": {
            "force_delete": False,
            "force_delete_warm_pool": False,
            "health_check_grace_period": 300,
            "ignore_failed_scaling_activities": False,
            "metrics_granularity": "1Minute",
            "protect_from_scale_in": False,
            "wait_for_capacity_timeout": "10m",
        },
    },
    # internal/service/autoscaling/group_tag.go
    "aws_autoscaling_group_tag": {"replaces": "autoscaling_group_name tag.key"},
    # internal/service/autoscaling/lifecycle_hook.go
    "aws_autoscaling_lifecycle_hook": {"computed": "default_result", "replaces": "name"},
    # internal/service/ec2/ebs_volume.go
    "aws_ebs_volume": {
        "computed": "encrypted iops kms_key_id size snapshot_id throughput type",
        "replaces": "availability_zone encrypted kms_key_id multi_attach_enabled outpost_arn snapshot_id",
        "defaults": {"final_snapshot": False},
    },
    # internal/service/ec2/vpc_network_interface.go; that a new primary address replaces the interface: resources.py
    "aws_network_interface": {
        "computed": (
            "attachment interface_type ipv4_prefix_count ipv4_prefixes ipv6_address_count ipv6_address_list ipv6_addresses "
            "ipv6_prefix_count ipv6_prefixes private_ip private_ip_list private_ips private_ips_count security_groups"
        ),
        "replaces": "interface_type subnet_id",
        "defaults": {"ipv6_address_list_enabled": False, "private_ip_list_enabled": False, "source_dest_check": True},
    },
    # internal/service/ec2/ec2_launch_template.go; that a change makes a new version: resources.py
    "aws_launch_template": {
        "computed": (
            "block_device_mappings.ebs.iops block_device_mappings.ebs.throughput block_device_mappings.ebs.volume_size "
            "block_device_mappings.ebs.volume_type default_version metadata_options metadata_options.http_endpoint "
            "metadata_options.http_put_response_hop_limit name name_prefix"
        ),
        "replaces": "name name_prefix",
        "defaults": {
            "metadata_options.http_protocol_ipv6": "disabled",
            "metadata_options.http_tokens": "optional",
            "metadata_options.instance_metadata_tags": "disabled",
        },
    },
    # internal/service/codebuild/project.go
    "aws_codebuild_project": {
        "computed": "auto_retry_limit description encryption_key",
        "replaces": "name",
        "defaults": {
            "artifacts.encryption_disabled": False,
            "artifacts.override_artifact_name": False,
            "badge_enabled": False,
            "build_timeout": 60,
            "environment.environment_variable.type": "PLAINTEXT",
            "environment.image_pull_credentials_type": "CODEBUILD",
            "environment.privileged_mode": False,
            "logs_config.cloudwatch_logs.status": "ENABLED",
            "project_visibility": "PRIVATE",
            "queued_timeout": 480,
        },
    },
    # internal/service/iam/instance_profile.go
    "aws_iam_instance_profile": {
        "computed": "name name_prefix",
        "replaces": "name name_prefix path",
        "defaults": {"path": "/"},
    },
    # internal/service/iam/policy.go
    "aws_iam_policy": {
        "computed": "name name_prefix",
        "replaces": "description name name_prefix path",
        "defaults": {"path": "/"},
    },
    # internal/service/iam/role.go
    "aws_iam_role": {
        "computed": "inline_policy managed_policy_arns name name_prefix",
        "replaces": "name name_prefix path",
        "defaults": {"force_detach_policies": False, "max_session_duration": 3600, "path": "/"},
    },
    # internal/service/iam/role_policy.go
    "aws_iam_role_policy": {"computed": "name name_prefix", "replaces": "name name_prefix role"},
    # internal/service/iam/role_policy_attachment.go
    "aws_iam_role_policy_attachment": {"replaces": "policy_arn role"},
    # hashicorp/terraform-provider-null, internal/provider/resource.go
    "null_resource": {"replaces": "triggers"},
}

# Of data sources every argument that is left out is read; these have defaults besides.
DATA = {
    # internal/service/iam/policy_document_data_source.go
    "aws_iam_policy_document": {"defaults": {"version": "2012-10-17", "statement.effect": "Allow"}},
}
