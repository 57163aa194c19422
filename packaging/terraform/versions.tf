terraform {
  required_version = ">= 1.3.7"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The first with instance_maintenance_policy.
      version = ">= 5.26.0"
    }

    null = {
      source  = "hashicorp/null"
      version = ">= 3.2.1"
    }
  }
}
