# The module that packaging/terraform takes the place of, as far as plans go: written anew after its document (inputs, outputs,
# resources, names), for tests that begin with a cluster that it made. Its user data and its script do nothing here.

locals {
  files = { for node in var.node_files : node.node_id => node.node_files_toupload }
}

module "cluster_nodes" {
  for_each = { for node in var.nodes : node.node_id => node }
  source   = "./modules/node-module"

  app_name                             = var.app_name
  asg_lifecycle_hook_heartbeat_timeout = var.asg_lifecycle_hook_heartbeat_timeout
  command_timeout_seconds              = var.command_timeout_seconds
  data_volume                          = merge(var.default_data_volume, each.value.node_data_disk)
  http_put_response_hop_limit          = var.http_put_response_hop_limit
  instance_type                        = var.instance_type
  jq_download_url                      = var.jq_download_url
  node_config_script                   = var.node_config_script
  node_files_toupload                  = local.files[each.key]
  node_id                              = each.key
  node_image                           = each.value.node_image != null ? each.value.node_image : var.node_image
  node_instance_profile_id             = aws_iam_instance_profile.node_instance_profile.id
  node_ip                              = each.value.node_ip
  node_key_name                        = var.node_key_name
  node_subnet_id                       = each.value.node_subnet_id
  root_volume                          = var.root_volume
  security_groups                      = var.security_groups
}

# A change of any launch template runs the script, which replaces the nodes inside the apply.
resource "null_resource" "roll_instances" {
  triggers = {
    node_template  = join(",", [for node in module.cluster_nodes : node.launch_template_version])
    asg_names      = join(" ", [for node in module.cluster_nodes : node.asg_name])
    rolling_script = filesha256("${path.module}/roll_cluster_instances.sh")
  }

  depends_on = [module.cluster_nodes]

  provisioner "local-exec" {
    command = "${path.module}/roll_cluster_instances.sh ${var.asg_inservice_timeout_in_mins}m ${self.triggers.asg_names}"
  }
}

data "aws_caller_identity" "current" {}

data "aws_region" "current" {}

resource "aws_iam_instance_profile" "node_instance_profile" {
  name = "${var.app_name}-instance-profile"
  role = aws_iam_role.node_role.name
}

resource "aws_iam_role" "node_role" {
  name               = "${var.app_name}-role"
  assume_role_policy = data.aws_iam_policy_document.instance-assume-role-policy.json
}

data "aws_iam_policy_document" "instance-assume-role-policy" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "ssm_policy" {
  role       = aws_iam_role.node_role.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_role_policy_attachment" "instance_userdata_policy" {
  role       = aws_iam_role.node_role.name
  policy_arn = aws_iam_policy.node_policy.arn
}

resource "aws_iam_policy" "node_policy" {
  name = "${var.app_name}-node-policy"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["ec2:AttachVolume", "ec2:AttachNetworkInterface", "autoscaling:CompleteLifecycleAction"]
      Resource = ["arn:aws:ec2:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}:*"]
    }]
  })
}
