# A CodeBuild project that rolls a cluster. Without options a build shows what would be done; with --yes it does it:
#
#   aws codebuild start-build --project-name kafka-roll
#   aws codebuild start-build --project-name kafka-roll --environment-variables-override name=ROLL_OPTIONS,value=--yes

locals {
  name      = "${var.app_name}-roll"
  log_group = "/aws/codebuild/${local.name}"
  partition = data.aws_partition.current.partition
  here      = "${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}"

  # The project has no source: its files come with the commands.
  files = concat(
    ["echo ${filebase64("${path.module}/../roll.sh")} | base64 --decode >roll.sh"],
    [for hooks in var.hooks[*] : "echo ${base64encode(hooks)} | base64 --decode >hooks.sh"],
  )
  roll = join("\n", [
    "read -ra options <<<\"$ROLL_OPTIONS\"",
    "bash roll.sh --cluster \"stateful-cluster=$CLUSTER\"${var.hooks == null ? "" : " --hooks hooks.sh"} \"$${options[@]}\"",
  ])
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

resource "aws_codebuild_project" "roll" {
  #checkov:skip=CKV_AWS_147:There are no artifacts to encrypt.
  name          = local.name
  description   = "Rolling update of ${var.app_name}, by node-agent roll"
  service_role  = aws_iam_role.roll.arn
  build_timeout = var.timeout_in_minutes
  # A second roll of the cluster would withdraw with exit code 4: it waits instead.
  concurrent_build_limit = 1

  source {
    type = "NO_SOURCE"
    buildspec = jsonencode({
      version = "0.2"
      env     = { shell = "bash" }
      phases  = { build = { commands = concat(local.files, [local.roll]) } }
    })
  }

  artifacts {
    type = "NO_ARTIFACTS"
  }

  environment {
    type         = "LINUX_CONTAINER"
    compute_type = "BUILD_GENERAL1_SMALL"
    image        = "aws/codebuild/amazonlinux-x86_64-standard:5.0"

    environment_variable {
      name  = "CLUSTER"
      value = var.app_name
    }

    environment_variable {
      name  = "NODE_AGENT_URL"
      value = var.node_agent_url
    }

    environment_variable {
      name  = "NODE_AGENT_SHA256"
      value = var.node_agent_sha256
    }

    environment_variable {
      name  = "ROLL_OPTIONS"
      value = ""
    }
  }

  dynamic "vpc_config" {
    for_each = var.vpc_config[*]

    content {
      vpc_id             = vpc_config.value.vpc_id
      subnets            = vpc_config.value.subnets
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  logs_config {
    cloudwatch_logs {
      group_name = local.log_group
    }
  }
}

resource "aws_iam_role" "roll" {
  name               = local.name
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["codebuild.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "roll" {
  name   = "roll"
  role   = aws_iam_role.roll.id
  policy = var.roll_policy_json
}

resource "aws_iam_role_policy" "build" {
  name   = "build"
  role   = aws_iam_role.roll.id
  policy = data.aws_iam_policy_document.build.json
}

# What CodeBuild itself does by this role.
data "aws_iam_policy_document" "build" {
  #checkov:skip=CKV_AWS_111:CodeBuild's own calls for a network know no resources.
  #checkov:skip=CKV_AWS_356:CodeBuild's own calls for a network know no resources.
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["arn:${local.partition}:logs:${local.here}:log-group:${local.log_group}:*"]
  }

  dynamic "statement" {
    for_each = var.vpc_config[*]

    content {
      sid = "Network"
      actions = [
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
      ]
      resources = ["*"]
    }
  }

  dynamic "statement" {
    for_each = var.vpc_config[*]

    content {
      sid       = "HandNetworkInterfaceToCodeBuild"
      actions   = ["ec2:CreateNetworkInterfacePermission"]
      resources = ["arn:${local.partition}:ec2:${local.here}:network-interface/*"]

      condition {
        test     = "StringEquals"
        variable = "ec2:AuthorizedService"
        values   = ["codebuild.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "ec2:Subnet"
        values   = [for subnet in statement.value.subnets : "arn:${local.partition}:ec2:${local.here}:subnet/${subnet}"]
      }
    }
  }
}
