# An Amazon Linux 2023 image with node-agent in it:
#
#   packer init . && packer build -var node_agent=/path/to/node-agent -var region=eu-central-1 .

variable "node_agent" {
  type        = string
  description = "The node-agent binary for the image's architecture, on this machine."
}

variable "region" {
  type = string
}

variable "architecture" {
  type        = string
  default     = "x86_64"
  description = "x86_64 or arm64."
}

variable "instance_type" {
  type        = string
  default     = "t3.small"
  description = "What the image is built on: of the same architecture."
}

locals {
  stamp = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "al2023" {
  ami_name      = "al2023-node-agent-${var.architecture}-${local.stamp}"
  region        = var.region
  instance_type = var.instance_type
  ssh_username  = "ec2-user"
  encrypt_boot  = true
  # Whoever launches the image gets IMDSv2 and nothing else, unless they say otherwise.
  imds_support = "v2.0"

  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true
    filters = {
      name         = "al2023-ami-2023.*-kernel-*"
      architecture = var.architecture
    }
  }

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }
}

build {
  sources = ["source.amazon-ebs.al2023"]

  provisioner "file" {
    source      = var.node_agent
    destination = "/tmp/node-agent"
  }

  # The binary and its unit, enabled and not started: it is skipped at boot while there is no configuration.
  provisioner "shell" {
    inline = [
      "sudo install -m 0700 /tmp/node-agent /root/node-agent",
      "sudo /root/node-agent install",
      "sudo rm /root/node-agent /tmp/node-agent",
      "sudo systemctl enable node-agent.service",
      "node-agent --version",
    ]
  }

  # Last.
  provisioner "shell" {
    script          = "${path.root}/clean.sh"
    execute_command = "sudo bash {{ .Path }}"
  }
}
