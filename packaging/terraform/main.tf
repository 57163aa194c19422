locals {
  nodes      = { for node in var.nodes : node.node_id => node }
  node_files = { for node in var.node_files : node.node_id => node.node_files_toupload }

  # The groups' names, for the policy, which may be no longer for a hundred nodes: a question mark is any one character, so that
  # node ids of one length are one pattern. No other cluster's groups match, because app_name is the role's, too, and so this
  # cluster's alone. Not by reference: a group's creation waits for its node, which waits for the policy that names the group.
  asg_name_patterns = distinct([for node_id in sort(keys(local.nodes)) : "${var.app_name}-node-${replace(node_id, "/./", "?")}"])

  # On every data volume, where the nodes' policy goes by it, and on every group, where the nodes find each other by it.
  cluster_tag = "stateful-cluster"
}

# No depends_on here, ever: with one, a change of what it names makes the subnets' zones unknown until the apply, and with them
# the volumes'.
module "cluster_nodes" {
  for_each = local.nodes
  source   = "./modules/node-module"

  app_name                             = var.app_name
  asg_lifecycle_hook_heartbeat_timeout = var.asg_lifecycle_hook_heartbeat_timeout
  cluster_tag                          = local.cluster_tag
  command_timeout_seconds              = var.command_timeout_seconds
  data_volume                          = merge(var.default_data_volume, each.value.node_data_disk)
  drain_timeout                        = var.drain_timeout
  http_put_response_hop_limit          = var.http_put_response_hop_limit
  instance_type                        = var.instance_type
  node_agent_in_image                  = var.node_agent_in_image
  node_agent_sha256                    = var.node_agent_sha256
  node_agent_url                       = var.node_agent_url
  node_config_script                   = var.node_config_script
  node_config_script_s3_url            = var.node_config_script_s3_url
  node_files_toupload                  = lookup(local.node_files, each.key, [])
  node_id                              = each.key
  node_image                           = each.value.node_image != null ? each.value.node_image : var.node_image
  node_instance_profile_id             = aws_iam_instance_profile.node_instance_profile.id
  node_ip                              = each.value.node_ip
  node_key_name                        = var.node_key_name
  node_subnet_id                       = each.value.node_subnet_id
  root_volume                          = var.root_volume
  security_groups                      = var.security_groups
}

# The rolling update: an apply that changes a launch template ends with it. A change of the triggers replaces this resource, which
# is nothing in AWS; creating it calls roll.sh.
#
# Because of depends_on all of every node is there before, its termination hook too. A node that was taken out of the cluster is
# gone before: Terraform destroys what the old resource depended on before it creates the new one.
resource "null_resource" "roll_instances" {
  triggers = {
    node_template = join(",", [for node in module.cluster_nodes : node.launch_template_version])
    asg_names     = join(" ", [for node in module.cluster_nodes : node.asg_name])
  }

  depends_on = [module.cluster_nodes]

  lifecycle {
    precondition {
      condition     = var.roll_hooks == null || (var.roll_check == null && var.roll_leader == null)
      error_message = "roll_hooks has the check and the leader: leave out roll_check and roll_leader."
    }
  }

  provisioner "local-exec" {
    command = file("${path.module}/roll.sh")

    # Never text of the command: a quote in a value would end its argument.
    environment = {
      AWS_REGION    = data.aws_region.current.id
      ROLL_CHECK    = var.roll_check == null ? "" : var.roll_check
      ROLL_CLUSTER  = "${local.cluster_tag}=${var.app_name}"
      ROLL_COMMAND  = var.roll_command
      ROLL_GROUPS   = self.triggers.asg_names
      ROLL_HOOKS    = var.roll_hooks == null ? "" : var.roll_hooks
      ROLL_LEADER   = var.roll_leader == null ? "" : var.roll_leader
      ROLL_ON_APPLY = var.roll_on_apply
      ROLL_TIMEOUT  = "${var.asg_inservice_timeout_in_mins}m"
    }
  }
}
