output "asg_names" {
  value = [for node in module.cluster_nodes : node.asg_name]
}

output "node_iam_role_name" {
  value = aws_iam_role.node_role.name
}

output "node_id_to_node_userdata_script_map" {
  value = { for node_id, node in module.cluster_nodes : node_id => node.node_userdata_script }
}
