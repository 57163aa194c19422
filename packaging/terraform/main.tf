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

# The rolling update's place: nothing replaces nodes here. A change makes new versions of the launch templates, and whoever
# applies it replaces the nodes one by one afterwards (README).
