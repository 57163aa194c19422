# As given by the root module, which describes them. The checks that need a node's own values stand here.

variable "app_name" {
  type = string
}

variable "asg_lifecycle_hook_heartbeat_timeout" {
  type = number
}

variable "cluster_tag" {
  type        = string
  description = "Key of the tag that has app_name as its value: on the data volume, where the nodes' policy goes by it, and on the group, where the nodes find each other by it."
}

variable "command_timeout_seconds" {
  type = number
}

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

  validation {
    condition     = contains(["ext4", "xfs"], var.data_volume.file_system_type)
    error_message = "file_system_type must be ext4 or xfs."
  }

  # What the agent takes, as `node-agent check --offline` judges it.
  validation {
    condition     = can(regex("^(/[^/\\x00-\\x1f\\x7f-\\x{9f}]+)+/?$", var.data_volume.mount_path)) && !can(regex("/\\.{1,2}(/|$)", var.data_volume.mount_path))
    error_message = "mount_path must be an absolute path without \"//\", \".\" and \"..\"."
  }

  validation {
    condition     = length(var.data_volume.mount_path) <= 4095
    error_message = "mount_path must not be longer than 4095 characters."
  }

  validation {
    condition     = var.data_volume.size_in_gibs >= 1 && floor(var.data_volume.size_in_gibs) == var.data_volume.size_in_gibs
    error_message = "size_in_gibs must be whole GiB, and at least 1."
  }

  validation {
    # A mount there would hide what the system needs.
    condition = alltrue([
      for place in [
        "^/(bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|root|run|sbin|sys|var/run|var/lock|var/lib/node-agent)(/|$)",
        "^/(home|tmp|var|var/(cache|lib|log|spool|tmp))/?$",
        "^/usr/local/(bin|lib|sbin)/?$",
      ] : !can(regex(place, var.data_volume.mount_path))
    ])
    error_message = "mount_path must be a directory for the data alone, as /mydata or /var/lib/kafka: a mount there would hide part of the system."
  }

  validation {
    condition     = !can(regex("^/usr(/|$)", var.data_volume.mount_path)) || can(regex("^/usr/(local|share|lib)/[^/]", var.data_volume.mount_path))
    error_message = "mount_path must be a directory for the data alone, as /mydata or /var/lib/kafka: a mount there would hide part of the system."
  }

  validation {
    condition     = can(regex("^/dev/(sd|xvd|hd)[a-z]{1,2}[0-9]{0,2}$", var.data_volume.device_name))
    error_message = "device_name must be one of EC2's, as /dev/sdf."
  }

  validation {
    # chown(2) reads the highest number as "leave unchanged".
    condition = alltrue([
      for name in [var.data_volume.mount_path_owner_user, var.data_volume.mount_path_owner_group] :
      can(regex("^[^-\\s\\x00-\\x1f\\x7f-\\x{9f}:/\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}][^\\s\\x00-\\x1f\\x7f-\\x{9f}:/\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}]*$", name)) && (can(regex("^[0-9]+$", name)) ? tonumber(name) < 4294967295 : true)
    ])
    error_message = "mount_path_owner_user and mount_path_owner_group must each be the name of one account, or its number, at most 4294967294, and not empty."
  }
}

variable "drain_timeout" {
  type = string
}

variable "http_put_response_hop_limit" {
  type = number
}

variable "instance_type" {
  type = string
}

variable "node_agent_in_image" {
  type = bool
}

variable "node_agent_sha256" {
  type = string
}

variable "node_agent_url" {
  type = string
}

variable "node_config_script" {
  type      = string
  sensitive = true
}

variable "node_config_script_s3_url" {
  type = string
}

variable "node_files_toupload" {
  type = list(object({
    contents    = string
    destination = string
    mode        = optional(string)
    owner       = optional(string)
    group       = optional(string)
  }))
  sensitive = true

  validation {
    condition     = alltrue([for file in var.node_files_toupload : can(regex("^(/[^/\\x00-\\x1f\\x7f-\\x{9f}]+)+$", file.destination)) && !can(regex("/\\.{1,2}(/|$)", file.destination))])
    error_message = "Each destination of node_files_toupload must be a file's absolute path, without \"//\", \".\" and \"..\"."
  }

  validation {
    # Linux's limit.
    condition     = alltrue([for file in var.node_files_toupload : length(file.destination) <= 4095])
    error_message = "A destination of node_files_toupload is longer than 4095 characters."
  }

  validation {
    condition     = alltrue([for file in var.node_files_toupload : !can(regex("^/(dev|proc|sys)/", file.destination))])
    error_message = "A destination of node_files_toupload is in a kernel filesystem, which stores no files."
  }

  validation {
    condition     = length(distinct([for file in var.node_files_toupload : file.destination])) == length(var.node_files_toupload)
    error_message = "Two of node_files_toupload have one destination."
  }

  validation {
    condition = alltrue([
      for file in var.node_files_toupload :
      alltrue([for other in var.node_files_toupload : !startswith(file.destination, "${other.destination}/")])
    ])
    error_message = "A destination of node_files_toupload is below another one, which is a file and no directory."
  }

  validation {
    condition     = alltrue([for file in var.node_files_toupload : file.mode == null || can(regex("^0*[0-7]{1,4}$", file.mode))])
    error_message = "Each mode of node_files_toupload must be in the octal digits that chmod takes, as \"0644\"."
  }

  validation {
    condition = alltrue([
      for name in flatten([for file in var.node_files_toupload : [file.owner, file.group]]) :
      name == null || can(regex("^[^-\\s\\x00-\\x1f\\x7f-\\x{9f}:/\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}][^\\s\\x00-\\x1f\\x7f-\\x{9f}:/\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}]*$", name)) && (can(regex("^[0-9]+$", name)) ? tonumber(name) < 4294967295 : true)
    ])
    error_message = "Each owner and group of node_files_toupload must be the name of one account, or its number, at most 4294967294."
  }
}

variable "node_id" {
  type = string
}

variable "node_image" {
  type = string
}

variable "node_instance_profile_id" {
  type = string
}

variable "node_ip" {
  type = string
}

variable "node_key_name" {
  type = string
}

variable "node_subnet_id" {
  type = string
}

variable "root_volume" {
  type = object({
    device_name  = string
    size_in_gibs = number
    type         = string
  })
}

variable "security_groups" {
  type = list(string)
}
