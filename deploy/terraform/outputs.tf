# What comes next: values for the charts, commands for the shell.

output "region" {
  description = "Region of everything."
  value       = var.region
}

output "cluster_name" {
  description = "Name for aws eks update-kubeconfig."
  value       = aws_eks_cluster.main.name
}

output "bucket_uri" {
  description = "Root of the outputs: coseis map --out s3://BUCKET/RUN."
  value       = "s3://${aws_s3_bucket.results.bucket}"
}

output "image_repository" {
  description = "Where to push the image."
  value       = aws_ecr_repository.coseis.repository_url
}

output "namespace" {
  description = "Namespace to install the chart in."
  value       = var.namespace
}

output "job_role_arn" {
  description = "Role of the job's service account."
  value       = aws_iam_role.service_account["job"].arn
}

output "helm_values" {
  description = "Values for the chart deploy/helm/coseis: terraform output -raw helm_values > cluster.yaml."
  value       = yamlencode(local.helm_values)
}

output "autoscaler_values" {
  description = "Values for the chart cluster-autoscaler: terraform output -raw autoscaler_values > autoscaler.yaml."
  value       = yamlencode(local.autoscaler_values)
}

locals {
  # Scheduler and job stay where no machine is taken away; workers go where a spot machine is enough.
  lasting     = { nodeSelector = { (local.pool_key) = "system" } }
  worker_pool = contains(keys(local.pools), "gpu") ? "gpu" : "cpu"

  helm_values = {
    image = { repository = aws_ecr_repository.coseis.repository_url }
    serviceAccount = {
      create      = true
      name        = var.service_account
      annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.service_account["job"].arn }
    }
    scheduler = local.lasting
    job       = local.lasting
    workers = {
      gpu          = local.worker_pool == "gpu"
      nodeSelector = { (local.pool_key) = local.worker_pool }
      tolerations  = [{ key = local.pool_key, operator = "Equal", value = local.worker_pool, effect = "NoSchedule" }]
    }
  }

  autoscaler_values = {
    cloudProvider = "aws"
    awsRegion     = var.region
    autoDiscovery = { clusterName = aws_eks_cluster.main.name }
    rbac = { serviceAccount = {
      create      = true
      name        = local.service_accounts.autoscaler.name
      annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.service_account["autoscaler"].arn }
    } }
    nodeSelector = { (local.pool_key) = "system" }
  }
}
