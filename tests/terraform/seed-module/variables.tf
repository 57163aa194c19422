# Its document's table of inputs.

variable "app_name" {
  type = string
}

variable "asg_inservice_timeout_in_mins" {
  type    = number
  default = 10
}

variable "asg_lifecycle_hook_heartbeat_timeout" {
  type    = number
  default = 3600
}

variable "command_timeout_seconds" {
  type    = number
  default = 1800
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
}

variable "http_put_response_hop_limit" {
  type    = number
  default = 1
}

variable "instance_type" {
  type = string
}

variable "jq_download_url" {
  type    = string
  default = "https://github.com/stedolan/jq/releases/download/jq-1.6/jq-linux64"
}

variable "node_config_script" {
  type = string
}

variable "node_files" {
  type = set(object({
    node_id = string
    node_files_toupload = optional(list(object({
      contents    = string
      destination = string
    })), [])
  }))
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
}

variable "security_groups" {
  type = list(string)
}
