locals {
  name          = "${var.app_name}-node-${var.node_id}"
  asg_hook_name = "${var.app_name}-node-asg-hook"
  # The termination hook holds an instance that is to go until the agent has drained it and unmounted its volume.
  terminate_hook_name = "${var.app_name}-node-terminate-hook"

  # The provider does not put its default tags on groups.
  group_tags = merge(data.aws_default_tags.current.tags, { Name = local.name, (var.cluster_tag) = var.app_name })

  # mount(8) takes several in one entry, the agent one an entry.
  mount_options = [for option in split(",", join(",", var.data_volume.mount_params)) : trimspace(option) if trimspace(option) != ""]

  # All that the configuration is made of, but the volume's id.
  configuration = {
    asg_hook_name       = local.asg_hook_name
    asg_name            = local.name
    cluster             = "${var.cluster_tag}=${var.app_name}"
    data_volume         = var.data_volume
    drain_timeout       = var.drain_timeout
    files               = var.node_files_toupload
    mount_options       = local.mount_options
    node_id             = var.node_id
    node_ip             = var.node_ip
    script              = var.node_config_script
    script_source       = var.node_config_script_s3_url
    seconds_to_mend     = var.asg_lifecycle_hook_heartbeat_timeout
    seconds_to_retry    = var.command_timeout_seconds
    terminate_hook_name = local.terminate_hook_name
  }

  # The script, where it is all that runs and Terraform can decode it: then it has the functions itself, unless it reads other
  # files or has a command that is an expansion.
  script_text = (
    var.node_config_script_s3_url == null && can(base64decode(replace(var.node_config_script, "/\\s/", "")))
    ? base64decode(replace(var.node_config_script, "/\\s/", ""))
    : "source"
  )
  script_may_read_others = can(regex("(?m)\\b(alias|builtin|command|enable|eval|source)\\b|(^|[\\s;&|(){}])\\.\\s|(^|[;&|(){}]|\\b(do|else|exec|then))\\s*[\"']?\\$", local.script_text))

  agent = {
    # A template takes no null. That the two go together is checked below.
    node_agent_sha256 = var.node_agent_sha256 == null ? "" : var.node_agent_sha256
    node_agent_url    = var.node_agent_url
  }
  user_data = templatefile("${path.module}/user-data.yaml.tftpl", merge(local.agent, {
    config = templatefile("${path.module}/config.toml.tftpl", merge(local.configuration, { volume_id = aws_ebs_volume.node_data.id }))
  }))
  # With another id, as long as any. The plan measures this one, because it does not know a new volume's id.
  user_data_to_measure = templatefile("${path.module}/user-data.yaml.tftpl", merge(local.agent, {
    config = templatefile("${path.module}/config.toml.tftpl", merge(local.configuration, { volume_id = "vol-00000000000000000" }))
  }))
  # EC2 takes 16 KiB before the encoding, which makes four characters of three bytes.
  user_data_limit = 4 * ceil(16384 / 3)
}

data "aws_default_tags" "current" {}

data "aws_subnet" "node_subnet" {
  id = var.node_subnet_id
}

resource "aws_ebs_volume" "node_data" {
  #checkov:skip=CKV_AWS_189:Encrypted with the account's default key for EBS, as the module before this one did. A change of the key would mean a new, empty volume.
  availability_zone = data.aws_subnet.node_subnet.availability_zone
  size              = var.data_volume.size_in_gibs
  type              = var.data_volume.type
  iops              = var.data_volume.iops
  throughput        = var.data_volume.throughput_mib_per_sec
  encrypted         = true

  tags = merge({ Name = "${var.app_name}-data-${var.node_id}" }, var.data_volume.tags, { (var.cluster_tag) = var.app_name })

  lifecycle {
    ignore_changes = [
      # A change of any of these means another, empty volume: an imported volume that is not encrypted, or a node whose subnet
      # is changed, keeps its volume and its data.
      availability_zone, encrypted, kms_key_id, outpost_arn, snapshot_id,
      # The agent's own: without them a volume that looks blank one day would be formatted again.
      tags["node-agent:formatted"], tags["node-agent:formatting"],
      tags_all["node-agent:formatted"], tags_all["node-agent:formatting"],
    ]
  }
}

resource "aws_network_interface" "node_network_interface" {
  subnet_id       = var.node_subnet_id
  security_groups = var.security_groups
  private_ips     = [var.node_ip]

  tags = {
    Name = "${var.app_name}-interface-${var.node_id}"
  }

  lifecycle {
    precondition {
      condition     = cidrhost("${var.node_ip}/${split("/", data.aws_subnet.node_subnet.cidr_block)[1]}", 0) == cidrhost(data.aws_subnet.node_subnet.cidr_block, 0)
      error_message = "node_ip is not an address of the subnet node_subnet_id."
    }
  }
}

resource "aws_launch_template" "node" {
  name          = local.name
  image_id      = var.node_image
  instance_type = var.instance_type
  key_name      = var.node_key_name
  user_data     = base64encode(local.user_data)

  iam_instance_profile {
    name = var.node_instance_profile_id
  }

  network_interfaces {
    network_interface_id = aws_network_interface.node_network_interface.id
    device_index         = 0
  }

  block_device_mappings {
    device_name = var.root_volume.device_name

    ebs {
      delete_on_termination = true
      encrypted             = true
      volume_size           = var.root_volume.size_in_gibs
      volume_type           = var.root_volume.type
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_protocol_ipv6          = "disabled"
    http_put_response_hop_limit = var.http_put_response_hop_limit
    http_tokens                 = "required"
  }

  monitoring {
    enabled = false
  }

  tags = {
    Name = local.name
  }

  lifecycle {
    create_before_destroy = true

    precondition {
      condition     = var.node_config_script != null || var.node_config_script_s3_url != null
      error_message = "One of node_config_script and node_config_script_s3_url is required."
    }

    precondition {
      condition = local.script_may_read_others || alltrue([
        for function in ["configure_cluster_node", "wait_for_healthy_cluster"] : can(regex(function, local.script_text))
      ])
      error_message = "node_config_script has no function configure_cluster_node, or no function wait_for_healthy_cluster."
    }

    precondition {
      condition     = (var.node_agent_url == null) == (var.node_agent_sha256 == null)
      error_message = "node_agent_url and node_agent_sha256 go together; leave both out where the image has node-agent."
    }

    # Without an agent nothing completes the launch, and the group abandons node after node.
    precondition {
      condition     = var.node_agent_in_image || var.node_agent_url != null
      error_message = "The nodes would have no agent: set node_agent_url and node_agent_sha256, or node_agent_in_image = true where the image has node-agent."
    }

    precondition {
      condition     = alltrue([for file in var.node_files_toupload : !startswith("${trimsuffix(var.data_volume.mount_path, "/")}/", "${file.destination}/")])
      error_message = "A destination of node_files_toupload is the volume's mount_path, or a directory above it: write a file's path."
    }

    precondition {
      condition = alltrue([
        for option in local.mount_options : can(regex("^[^\\s\\x00-\\x1f\\x7f-\\x{9f}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}\"'\\\\]+$", option)) && !contains([
          "bind", "loop", "make-private", "make-rprivate", "make-rshared", "make-rslave", "make-shared", "make-slave",
          "make-unbindable", "move", "nouuid", "offset", "rbind", "remount", "sizelimit", "x-systemd.automount",
          "x-systemd.makefs", "X-mount.subdir",
        ], split("=", option)[0])
      ])
      error_message = "mount_params has what the agent refuses: an option that does not mount the volume itself, as bind or remount; x-systemd.automount or x-systemd.makefs; nouuid, which the agent adds where it is needed; or quotes."
    }

    # The volume's own, which another subnet does not change: see ignore_changes there.
    precondition {
      condition     = aws_ebs_volume.node_data.availability_zone == data.aws_subnet.node_subnet.availability_zone
      error_message = "node_subnet_id is in another availability zone than the node's data volume, which cannot be attached there."
    }

    precondition {
      condition     = length(base64encode(local.user_data_to_measure)) <= local.user_data_limit
      error_message = "The node's user data is larger than 16 KiB. Put the script on S3 and name it by node_config_script_s3_url, or let it fetch what node_files has."
    }
  }
}

resource "aws_autoscaling_group" "node_asg" {
  name               = local.name
  min_size           = 1
  max_size           = 1
  availability_zones = [data.aws_subnet.node_subnet.availability_zone]

  enabled_metrics = [
    "GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize", "GroupMinSize", "GroupPendingInstances",
    "GroupStandbyInstances", "GroupTerminatingInstances", "GroupTotalInstances",
  ]
  metrics_granularity = "1Minute"

  launch_template {
    id      = aws_launch_template.node.id
    version = aws_launch_template.node.latest_version
  }

  # A node that does not report itself healthy is replaced.
  initial_lifecycle_hook {
    name                 = local.asg_hook_name
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    default_result       = "ABANDON"
    heartbeat_timeout    = var.asg_lifecycle_hook_heartbeat_timeout
  }

  # A replacement can be launched only when the old instance is gone, because the two share one network interface.
  instance_maintenance_policy {
    min_healthy_percentage = 0
    max_healthy_percentage = 100
  }

  # For the first instance, which is launched with the group.
  dynamic "tag" {
    for_each = local.group_tags

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  lifecycle {
    ignore_changes = [
      # A change of it would replace the group, and with it the node. The hook of a running group is changed by hand.
      initial_lifecycle_hook,
      # Staged by the roll, just before it takes the node: one that fails earlier comes back on the version that is proven.
      launch_template[0].version,
      # aws_autoscaling_group_tag keeps the module's tags current. An apply of the tags above would remove all others, among them
      # node-agent:roll-pause, by which an operator pauses a rolling update.
      tag,
    ]
  }
}

resource "aws_autoscaling_group_tag" "node_asg" {
  for_each               = local.group_tags
  autoscaling_group_name = aws_autoscaling_group.node_asg.name

  tag {
    key                 = each.key
    value               = each.value
    propagate_at_launch = true
  }
}

# A resource of its own: Terraform sets an initial_lifecycle_hook only when it creates a group, and existing groups need this
# hook, too.
resource "aws_autoscaling_lifecycle_hook" "terminate" {
  name                   = local.terminate_hook_name
  autoscaling_group_name = aws_autoscaling_group.node_asg.name
  lifecycle_transition   = "autoscaling:EC2_INSTANCE_TERMINATING"
  # The instance is lost either way. Under a retain policy, ABANDON would keep it, and with it the node's interface and volume.
  default_result = "CONTINUE"
  # The agent's heartbeats extend it; a node that has no agent yet goes after five minutes.
  heartbeat_timeout = 300
}
