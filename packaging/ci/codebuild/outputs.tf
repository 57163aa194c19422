output "project_name" {
  value = aws_codebuild_project.roll.name
}

output "role_name" {
  value = aws_iam_role.roll.name
}
