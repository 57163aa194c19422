# The inputs of the module that this one takes the place of: names, types and defaults are theirs. What is new stands at the
# end.

variable "app_name" {
  type = string

  validation {
    # Of a lifecycle hook's name these characters, of a role's name the length.
    condition     = can(regex("^[A-Za-z0-9_-]{1,59}$", var.app_name))
    error_message = "app_name must be 1 to 59 letters, digits, dashes and underscores: the names of the role and the lifecycle hooks are made from it."
  }
}

variable "asg_inservice_timeout_in_mins" {
  type        = number
  default     = 10
  description = "Timeout in mins which will be used by the rolling update script to wait for instances to be InService for an ASG"

  validation {
    # What roll's --timeout takes.
    condition     = var.asg_inservice_timeout_in_mins > 0 && var.asg_inservice_timeout_in_mins <= 525600 && floor(var.asg_inservice_timeout_in_mins) == var.asg_inservice_timeout_in_mins
    error_message = "asg_inservice_timeout_in_mins must be whole minutes, more than zero and no more than a year's 525600."
  }
}

variable "asg_lifecycle_hook_heartbeat_timeout" {
  type        = number
  default     = 3600
  description = "Timeout for ASG initial lifecycle hook. This is used only during ASG creation, subsequent value changes are not handled by terraform (has to be updated manually)"

  validation {
    # Auto Scaling's own limits (API reference, PutLifecycleHook); and the agent's hold_for takes whole seconds.
    condition     = var.asg_lifecycle_hook_heartbeat_timeout >= 30 && var.asg_lifecycle_hook_heartbeat_timeout <= 7200 && floor(var.asg_lifecycle_hook_heartbeat_timeout) == var.asg_lifecycle_hook_heartbeat_timeout
    error_message = "asg_lifecycle_hook_heartbeat_timeout must be whole seconds from 30 to 7200."
  }
}

variable "command_timeout_seconds" {
  type        = number
  default     = 1800
  description = "The timeout that will be used by the userdata script to retry commands on failure. Keep it higher to allow manual recovery"

  validation {
    condition     = var.command_timeout_seconds > 0 && var.command_timeout_seconds <= 31536000 && floor(var.command_timeout_seconds) == var.command_timeout_seconds
    error_message = "command_timeout_seconds must be whole seconds, more than zero and no more than a year's 31536000."
  }
}

variable "default_data_volume" {
  type = object({
    device_name            = optional(string, "/dev/sdf")
    size_in_gibs           = number
    type                   = string
    iops                   = optional(number)
    throughput_mib_per_sec = optional(number)
    mount_path             = string
    file_system_type       = string
    mount_params           = optional(list(string), [])
    mount_path_owner_user  = string
    mount_path_owner_group = string
    tags                   = optional(map(string), {})
  })
  description = <<-EOT
    This is default data volume configuration. This can be selectively overridden at node config level
    device_name = "Device name for additional Data volume, select name as per https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html"
    type = "EBS volume type e.g. gp2, gp3 etc"
    iops = "Only valid for type gp3"
    throughput_mib_per_sec = "only valid for type gp3"
    mount_path = "path where to mount the data volume"
    file_system_type = "File system to use to format the volume. eg. ext4 or xfs. This is used only initial time. Later changes will be ignored"
    mount_params = "Parameters to be used while mounting the volume eg. noatime etc. Optional, empty if not provided"
    mount_path_owner_user = "OS user that should own volume mount path will be used for chown"
    mount_path_owner_group = "OS group that should own the volume mount path, will be used for chown"
  EOT
}

variable "http_put_response_hop_limit" {
  type    = number
  default = 1
}

variable "instance_type" {
  type = string
}

variable "jq_download_url" {
  type        = string
  default     = "https://github.com/stedolan/jq/releases/download/jq-1.6/jq-linux64"
  description = "Accepted and not used: nothing needs jq any more."
}

variable "node_config_script" {
  type    = string
  default = null
  # Scripts hold passwords more often than they should.
  sensitive   = true
  description = <<-EOT
    Base64 encoded node configuration shell script.
    Must include configure_cluster_node and wait_for_healthy_cluster function. Check documentation for more details about the contract
  EOT

  validation {
    condition     = var.node_config_script == null || can(regex("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$", replace(var.node_config_script, "/\\s/", "")))
    error_message = "node_config_script must be base64, as filebase64() makes it."
  }

  validation {
    condition     = var.node_config_script == null || replace(var.node_config_script, "/\\s/", "") != ""
    error_message = "node_config_script must not be empty; leave it out where the script is at node_config_script_s3_url."
  }
}

variable "node_files" {
  type = set(object({
    node_id = string
    node_files_toupload = optional(list(object({
      contents    = string
      destination = string
      mode        = optional(string)
      owner       = optional(string)
      group       = optional(string)
    })), [])
  }))
  # Keys and passwords, often.
  sensitive   = true
  description = <<-EOT
    node_id = node identifier (this is not a index and need not in any specific ordered).
    node_files_toupload = list of file to be uploaded per node. These can be cluster config files etc.
    node_files_toupload.contents = Base64 encoded contents of the file to be uploaded on the node.
    node_files_toupload.destination = File destination on the node. This will be the file path and name on the node. The file ownership should be changed by node_config_script.
  EOT

  validation {
    # Not by base64decode(), which takes text only.
    condition = alltrue([
      for node in var.node_files : alltrue([
        for file in node.node_files_toupload :
        can(regex("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$", replace(file.contents, "/\\s/", "")))
      ])
    ])
    error_message = "Each contents of node_files_toupload must be base64, as filebase64() and base64encode() make it."
  }
}

variable "node_image" {
  type = string
}

variable "node_key_name" {
  type = string
}

variable "nodes" {
  type = set(object({
    node_id        = string
    node_ip        = string
    node_image     = optional(string)
    node_subnet_id = string
    node_data_disk = optional(map(string), {})
  }))
  description = <<-EOT
    node_id = node identifier (this is not a index and need not in any specific ordered).
    node_ip = IP address of the cluster node. This should be available within the subnet.
    node_image = image for node of the cluster node.
    node_subnet_id = Id of the subnet where node should be created.
    node_data_disk = override the default data disk configuration for the node. (follow the same schema of data disk).
  EOT

  validation {
    condition     = alltrue([for node in var.nodes : can(regex("^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$", node.node_ip))])
    error_message = "Each node_ip must be an IPv4 address."
  }

  validation {
    condition     = length(distinct([for node in var.nodes : "${node.node_subnet_id} ${node.node_ip}"])) == length(var.nodes)
    error_message = "Two nodes have one node_ip in one subnet."
  }

  validation {
    # A launch template's name is made from it.
    condition     = alltrue([for node in var.nodes : can(regex("^[A-Za-z0-9()./_-]{1,60}$", node.node_id))])
    error_message = "Each node_id must be 1 to 60 letters, digits, dashes, underscores, dots, slashes and parentheses: the names of the group and the launch template are made from it."
  }

  validation {
    # Terraform drops keys that default_data_volume does not have, and those that are no texts fit into no map of texts.
    condition = alltrue([
      for node in var.nodes : alltrue([
        for key in keys(node.node_data_disk) : contains([
          "device_name", "file_system_type", "iops", "mount_path", "mount_path_owner_group", "mount_path_owner_user",
          "size_in_gibs", "throughput_mib_per_sec", "type",
        ], key)
      ])
    ])
    error_message = "node_data_disk takes device_name, file_system_type, iops, mount_path, mount_path_owner_group, mount_path_owner_user, size_in_gibs, throughput_mib_per_sec and type."
  }
}

variable "root_volume" {
  type = object({
    device_name  = string
    size_in_gibs = number
    type         = string
  })
  default = {
    device_name  = "/dev/xvda"
    size_in_gibs = 16
    type         = "gp3"
  }

  validation {
    condition     = var.root_volume.size_in_gibs >= 1 && floor(var.root_volume.size_in_gibs) == var.root_volume.size_in_gibs
    error_message = "root_volume's size_in_gibs must be whole GiB, and at least 1."
  }
}

variable "security_groups" {
  type = list(string)
}

# New.

variable "node_config_script_s3_url" {
  type        = string
  default     = null
  description = <<-EOT
    s3:// URL of the node configuration script, for one that is too large for user data. It wins over node_config_script, which
    is used where it cannot be fetched or is empty. One of the two is required.
  EOT

  validation {
    # The URL becomes a resource of the node's policy, where these characters would stand for others.
    condition     = var.node_config_script_s3_url == null || can(regex("^s3://[A-Za-z0-9._-]{3,255}/[^*?$\\x00-\\x1f\\x7f-\\x{9f}]*[^*?$/\\x00-\\x1f\\x7f-\\x{9f}]$", var.node_config_script_s3_url))
    error_message = "node_config_script_s3_url must be s3://bucket/key, and the key must not have *, ? or $ in it."
  }
}

variable "node_agent_url" {
  type        = string
  default     = null
  description = "https:// URL of the node-agent binary, fetched at each node's first boot. Left out with node_agent_in_image."

  validation {
    condition     = var.node_agent_url == null || can(regex("^https://[^/:\\s\"'`$\\\\\\x00-\\x1f\\x7f-\\x{9f}][^\\s\"'`$\\\\\\x00-\\x1f\\x7f-\\x{9f}]*$", var.node_agent_url))
    error_message = "node_agent_url must be an https:// URL without quotes, backslashes, dollar signs or white space."
  }
}

variable "node_agent_sha256" {
  type        = string
  default     = null
  description = "SHA-256 of the binary at node_agent_url, required with it. A binary with another one is not started."

  validation {
    condition     = var.node_agent_sha256 == null || can(regex("^[0-9a-f]{64}$", var.node_agent_sha256))
    error_message = "node_agent_sha256 must be 64 lower-case hex digits, as sha256sum prints them."
  }
}

variable "node_agent_in_image" {
  type        = bool
  default     = false
  description = "The image has node-agent and its unit (packaging/ami), so that nothing is fetched. One of this and node_agent_url is required."
}

variable "drain_timeout" {
  type        = string
  default     = null
  description = "How long the script's function drain_cluster_node may take before a node terminates, as 90s, 10m or 1h30m. Left out, it is the agent's default, 10m."

  validation {
    # No longer than the agent takes, and never zero.
    condition     = var.drain_timeout == null || can(regex("^([0-9]{1,3}h)? ?([0-9]{1,4}m)? ?([0-9]{1,6}s)?$", var.drain_timeout)) && can(regex("[1-9]", var.drain_timeout))
    error_message = "drain_timeout must be a time such as 90s, 10m or 1h30m, and longer than zero."
  }
}

variable "kms_key_arn" {
  type        = string
  default     = null
  description = "ARN of your own KMS key, where the account's EBS encryption by default uses one: the nodes' role gets what attaching a volume with it needs. Not needed for the AWS managed key aws/ebs."

  validation {
    # The key itself: IAM does not follow an alias.
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, as arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab, not of an alias."
  }
}

variable "roll_on_apply" {
  type        = bool
  default     = true
  description = "Whether an apply that changes a launch template rolls the nodes at its end. With false it says only how to roll, for example in a CI job."
}

variable "roll_command" {
  type        = string
  default     = "node-agent"
  description = "The command that is called with roll and its options where terraform runs, by /bin/sh: a path, or what starts a container that has node-agent, as docker run --rm -e AWS_REGION … node-agent."

  validation {
    condition     = can(regex("^[^\\s\\x00-\\x1f\\x7f-\\x{9f}][^\\x00-\\x1f\\x7f-\\x{9f}]*$", var.roll_command))
    error_message = "roll_command must be one line, and not empty."
  }
}

variable "roll_check" {
  type        = string
  default     = null
  description = "Command of roll --check: succeeds while one node more may go. Without a check the roll sees only that the nodes are in service."
}

variable "roll_leader" {
  type        = string
  default     = null
  description = "Command of roll --leader: prints the node id, or the group, of the node that goes last."
}

variable "roll_hooks" {
  type        = string
  default     = null
  description = "File of roll --hooks, with the functions check_cluster and leader_node, in place of roll_check and roll_leader. Its path is absolute, or relative to the directory of the root module."
}
