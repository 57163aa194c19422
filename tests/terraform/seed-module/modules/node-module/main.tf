locals {
  name     = "${var.app_name}-node-${var.node_id}"
  userdata = "#!/bin/bash\n# ${aws_ebs_volume.node_data.id} ${sha256(jsonencode([var.node_files_toupload, var.node_config_script, var.data_volume]))}\n"
}

data "aws_default_tags" "current" {}

data "aws_subnet" "node_subnet" {
  id = var.node_subnet_id
}

resource "aws_ebs_volume" "node_data" {
  availability_zone = data.aws_subnet.node_subnet.availability_zone
  size              = var.data_volume.size_in_gibs
  type              = var.data_volume.type
  iops              = var.data_volume.iops
  throughput        = var.data_volume.throughput_mib_per_sec
  encrypted         = true

  tags = merge({ Name = "${var.app_name}-data-${var.node_id}" }, var.data_volume.tags)
}

resource "aws_network_interface" "node_network_interface" {
  subnet_id       = var.node_subnet_id
  security_groups = var.security_groups
  private_ips     = [var.node_ip]

  tags = {
    Name = "${var.app_name}-interface-${var.node_id}"
  }
}

resource "aws_launch_template" "node" {
  name          = local.name
  image_id      = var.node_image
  instance_type = var.instance_type
  key_name      = var.node_key_name
  user_data     = base64encode(local.userdata)

  monitoring {
    enabled = false
  }

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

  tags = {
    Name = local.name
  }

  lifecycle {
    create_before_destroy = true
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

  initial_lifecycle_hook {
    name                 = "${var.app_name}-node-asg-hook"
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    default_result       = "ABANDON"
    heartbeat_timeout    = var.asg_lifecycle_hook_heartbeat_timeout
  }

  tag {
    key                 = "Name"
    value               = local.name
    propagate_at_launch = true
  }

  dynamic "tag" {
    for_each = data.aws_default_tags.current.tags

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }
}
