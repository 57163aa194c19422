variable "app_name" {
  type        = string
  description = "The cluster: the module's app_name, and the value of the groups' tag stateful-cluster. The project is <app_name>-roll."
}

variable "roll_policy_json" {
  type        = string
  description = "What the roll may do: the module's output roll_policy_json."
}

variable "node_agent_url" {
  type        = string
  description = "https:// URL of the node-agent binary for x86_64."

  validation {
    condition     = can(regex("^https://[^/:\\s\"'`$\\\\\\x00-\\x1f\\x7f-\\x{9f}][^\\s\"'`$\\\\\\x00-\\x1f\\x7f-\\x{9f}]*$", var.node_agent_url))
    error_message = "node_agent_url must be an https:// URL without quotes, backslashes, dollar signs or white space."
  }
}

variable "node_agent_sha256" {
  type        = string
  description = "SHA-256 of the binary at node_agent_url. A binary with another one is not started."

  validation {
    condition     = can(regex("^[0-9a-f]{64}$", var.node_agent_sha256))
    error_message = "node_agent_sha256 must be 64 lower-case hex digits, as sha256sum prints them."
  }
}

variable "hooks" {
  type        = string
  default     = null
  description = "The nodes' hook script with check_cluster and leader_node, as file() reads it. Without one the roll sees only what Auto Scaling sees."

  validation {
    # AWS's limit of a buildspec is not published; this leaves room in what CreateProject takes.
    condition     = var.hooks == null || length(coalesce(var.hooks, "-")) <= 65536
    error_message = "hooks must be at most 64 KiB."
  }
}

variable "vpc_config" {
  type = object({
    vpc_id             = string
    subnets            = list(string)
    security_group_ids = list(string)
  })
  default     = null
  description = "Where the check reaches the nodes from. The subnets need a way to AWS's APIs: a NAT gateway or VPC endpoints."
}

variable "timeout_in_minutes" {
  type        = number
  default     = 480
  description = "How long a build may take, 5 to 480. A roll that is cut off is begun again, and goes on."

  validation {
    condition     = var.timeout_in_minutes >= 5 && var.timeout_in_minutes <= 480
    error_message = "timeout_in_minutes must be from 5 to 480."
  }
}
