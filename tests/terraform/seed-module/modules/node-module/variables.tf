# As given by the root module.

variable "app_name" {}
variable "asg_lifecycle_hook_heartbeat_timeout" {}
variable "command_timeout_seconds" {}
variable "http_put_response_hop_limit" {}
variable "instance_type" {}
variable "jq_download_url" {}
variable "node_config_script" {}
variable "node_files_toupload" {}
variable "node_id" {}
variable "node_image" {}
variable "node_instance_profile_id" {}
variable "node_ip" {}
variable "node_key_name" {}
variable "node_subnet_id" {}
variable "root_volume" {}
variable "security_groups" {}

variable "data_volume" {
  type = object({
    device_name            = string
    size_in_gibs           = number
    type                   = string
    iops                   = optional(number)
    throughput_mib_per_sec = optional(number)
    mount_path             = string
    file_system_type       = string
    mount_params           = list(string)
    mount_path_owner_user  = string
    mount_path_owner_group = string
    tags                   = optional(map(string), {})
  })
}
