output "asg_names" {
  value = [for node_id, node in module.cluster_nodes : node.asg_name]
}

output "node_iam_role_name" {
  value = aws_iam_role.node_role.name
}

output "node_id_to_node_userdata_script_map" {
  # It has the nodes' files and the configuration script in it.
  sensitive = true
  value     = { for node_id, node in module.cluster_nodes : node_id => node.node_userdata_script }
}

output "roll_policy_json" {
  value = data.aws_iam_policy_document.roll_policy.json

  precondition {
    # As for the nodes' policy.
    condition     = length(replace(data.aws_iam_policy_document.roll_policy.json, "/\\s/", "")) <= 6144
    error_message = "The roll's policy is longer than the 6144 characters that IAM takes: give the nodes ids of fewer different lengths, or a shorter app_name."
  }
}
