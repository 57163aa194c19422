# The policy of whoever calls the roll: of the identity that runs terraform, where roll_on_apply is true, or of a CI job's role. It is
# an output and no resource, because the module does not know that identity.
#
# What the roll calls and nothing more; a test compares the two. docs/rolling.md says what each action is for.
data "aws_iam_policy_document" "roll_policy" {
  # These know no resources: IAM takes them for "*" only.
  statement {
    sid = "Look"
    actions = [
      "autoscaling:DescribeAccountSettings",
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeAutoScalingInstances",
      "autoscaling:DescribeInstanceRefreshes",
      "autoscaling:DescribeLifecycleHooks",
      "autoscaling:DescribeScalingActivities",
      "ec2:DescribeImages",
      "ec2:DescribeInstanceTypeOfferings",
      "ec2:DescribeInstances",
      "ec2:DescribeLaunchTemplateVersions",
      "ec2:DescribeLaunchTemplates",
      "ec2:DescribeNetworkInterfaces",
      "ec2:DescribeVolumes",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "ReadConsolesOfThisCluster"
    actions   = ["ec2:GetConsoleOutput"]
    resources = ["${local.ec2}:instance/*"]

    condition {
      test     = "StringLike"
      variable = local.node_tag
      values   = local.asg_name_patterns
    }
  }

  statement {
    sid = "ReplaceNodesOfThisCluster"
    actions = [
      "autoscaling:CompleteLifecycleAction",
      "autoscaling:TerminateInstanceInAutoScalingGroup",
      "autoscaling:UpdateAutoScalingGroup",
    ]
    resources = local.group_arns

    condition {
      test     = "StringEquals"
      variable = local.group_tag
      values   = [var.app_name]
    }
  }

  statement {
    sid       = "TagGroupsOfThisCluster"
    actions   = ["autoscaling:CreateOrUpdateTags", "autoscaling:DeleteTags"]
    resources = local.group_arns

    condition {
      test     = "StringEquals"
      variable = local.group_tag
      values   = [var.app_name]
    }

    condition {
      test     = "ForAllValues:StringLike"
      variable = "aws:TagKeys"
      values   = ["node-agent:roll*"]
    }

    # Of no keys at all, all are right.
    condition {
      test     = "Null"
      variable = "aws:TagKeys"
      values   = ["false"]
    }
  }

  # UpdateAutoScalingGroup asks whether its caller may launch from the template: this cluster's, known by their tag, and with them
  # whatever they name.
  statement {
    sid       = "LaunchFromTemplatesOfThisCluster"
    actions   = ["ec2:RunInstances"]
    resources = ["${local.ec2}:launch-template/*"]

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/Name"
      values   = local.asg_name_patterns
    }
  }

  statement {
    sid     = "LaunchWhatTemplatesName"
    actions = ["ec2:RunInstances"]
    resources = concat(
      [for kind in ["instance", "key-pair", "network-interface", "security-group", "subnet", "volume"] : "${local.ec2}:${kind}/*"],
      [local.images, local.snapshots],
    )

    condition {
      test     = "ArnLike"
      variable = "ec2:LaunchTemplate"
      values   = ["${local.ec2}:launch-template/*"]
    }
  }

  statement {
    sid     = "LaunchWithTheNodesRole"
    actions = ["iam:PassRole"]
    # Not by reference, so that the plan knows the policy's length.
    resources = ["arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:role/${var.app_name}-role"]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]
    }
  }

  # For --snapshot.
  statement {
    sid       = "SnapshotVolumesOfThisCluster"
    actions   = ["ec2:CreateSnapshot"]
    resources = ["${local.ec2}:volume/*"]

    condition {
      test     = "StringEquals"
      variable = local.volume_tag
      values   = [var.app_name]
    }
  }

  statement {
    sid       = "MakeSnapshots"
    actions   = ["ec2:CreateSnapshot"]
    resources = [local.snapshots]
  }

  statement {
    sid       = "TagNewSnapshots"
    actions   = ["ec2:CreateTags"]
    resources = [local.snapshots]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["CreateSnapshot"]
    }
  }
}
