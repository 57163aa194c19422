data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  # `id` is the region's name in every version of the provider; `name` is going away.
  here = "${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}"
  ec2  = "arn:${data.aws_partition.current.partition}:ec2:${local.here}"

  # How the policy knows the volumes of this cluster.
  volume_tag = "aws:ResourceTag/${local.cluster_tag}"
  # How it knows the nodes: Auto Scaling sets this tag at launch and nobody else can. The running nodes of a cluster that is
  # moved to this module have it too.
  node_tag = "aws:ResourceTag/aws:autoscaling:groupName"
  # How the roll's policy knows the groups, beside their names.
  group_tag = "autoscaling:ResourceTag/${local.cluster_tag}"
  group_arns = [
    for name in local.asg_name_patterns :
    "arn:${data.aws_partition.current.partition}:autoscaling:${local.here}:autoScalingGroup:*:autoScalingGroupName/${name}"
  ]
  # These ARNs have no account.
  images    = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.id}::image/*"
  snapshots = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.id}::snapshot/*"
}

resource "aws_iam_instance_profile" "node_instance_profile" {
  name = "${var.app_name}-instance-profile"
  role = aws_iam_role.node_role.name
}

resource "aws_iam_role" "node_role" {
  name               = "${var.app_name}-role"
  assume_role_policy = data.aws_iam_policy_document.instance-assume-role-policy.json

  lifecycle {
    # Of the whole cluster, and so with what is made first.
    precondition {
      condition     = alltrue([for node_id in keys(local.node_files) : contains(keys(local.nodes), node_id)])
      error_message = "node_files names a node_id that is not among nodes."
    }
  }
}

data "aws_iam_policy_document" "instance-assume-role-policy" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Shell access by Session Manager, for repairs.
resource "aws_iam_role_policy_attachment" "ssm_policy" {
  role       = aws_iam_role.node_role.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonSSMManagedInstanceCore"
}

resource "aws_iam_role_policy_attachment" "instance_userdata_policy" {
  role       = aws_iam_role.node_role.name
  policy_arn = aws_iam_policy.node_policy.arn
}

resource "aws_iam_policy" "node_policy" {
  name   = "${var.app_name}-node-policy"
  policy = data.aws_iam_policy_document.node_policy.json

  lifecycle {
    # IAM's limit, white space not counted (IAM user guide, "IAM and AWS STS quotas").
    precondition {
      condition     = length(replace(data.aws_iam_policy_document.node_policy.json, "/\\s/", "")) <= 6144
      error_message = "The nodes' policy is longer than the 6144 characters that IAM takes: give the nodes ids of fewer different lengths, or a shorter app_name."
    }
  }
}

# What the agent calls and nothing more; a test compares the two.
data "aws_iam_policy_document" "node_policy" {
  # These know no resources: IAM takes them for "*" only.
  statement {
    sid = "Look"
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeLifecycleHooks",
      "ec2:DescribeInstances",
      "ec2:DescribeVolumes",
    ]
    resources = ["*"]
  }

  # Attaching and detaching need permission on both the volume and the instance.
  statement {
    sid       = "MoveVolumesOfThisCluster"
    actions   = ["ec2:AttachVolume", "ec2:DetachVolume"]
    resources = ["${local.ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = local.volume_tag
      values   = [var.app_name]
    }
  }

  statement {
    sid       = "MoveBetweenNodesOfThisCluster"
    actions   = ["ec2:AttachVolume", "ec2:DetachVolume"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringLike"
      variable = local.node_tag
      values   = local.asg_name_patterns
    }
  }

  # What was formatted, so that it is never formatted again.
  statement {
    sid       = "NoteOnVolumesOfThisCluster"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = local.volume_tag
      values   = [var.app_name]
    }

    condition {
      test     = "ForAllValues:StringLike"
      variable = "aws:TagKeys"
      values   = ["node-agent:*"]
    }

    # Of no keys at all, all are right.
    condition {
      test     = "Null"
      variable = "aws:TagKeys"
      values   = ["false"]
    }
  }

  # Why a node is stuck, for people who cannot log in; and which node a leaving node waits for, for the other nodes.
  statement {
    sid       = "NoteOnNodesOfThisCluster"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringLike"
      variable = local.node_tag
      values   = local.asg_name_patterns
    }

    condition {
      test     = "ForAllValues:StringLike"
      variable = "aws:TagKeys"
      values   = ["node-agent:*"]
    }

    condition {
      test     = "Null"
      variable = "aws:TagKeys"
      values   = ["false"]
    }
  }

  statement {
    sid = "ReportToAutoScaling"
    actions = [
      "autoscaling:CompleteLifecycleAction",
      "autoscaling:RecordLifecycleActionHeartbeat",
    ]
    resources = local.group_arns
  }

  dynamic "statement" {
    for_each = var.node_config_script_s3_url == null ? [] : [var.node_config_script_s3_url]

    content {
      sid       = "FetchNodeConfigScript"
      actions   = ["s3:GetObject"]
      resources = ["arn:${data.aws_partition.current.partition}:s3:::${trimprefix(statement.value, "s3://")}"]
    }
  }

  # For volumes that are encrypted with a key of the user's own: EC2 asks KMS in the name of the role that attaches
  # (EBS user guide, "Requirements for Amazon EBS encryption").
  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "GrantKeyToEC2"
      actions   = ["kms:CreateGrant"]
      resources = [statement.value]

      condition {
        test     = "Bool"
        variable = "kms:GrantIsForAWSResource"
        values   = ["true"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid = "UseKeyThroughEC2"
      actions = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncrypt*",
      ]
      resources = [statement.value]

      condition {
        test     = "StringLike"
        variable = "kms:ViaService"
        # In China the name ends with .cn.
        values = ["ec2.${data.aws_region.current.id}.amazonaws.com*"]
      }
    }
  }
}
