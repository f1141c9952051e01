# The Kubernetes cluster: control plane, its key and logs, the add-ons that nodes need, and who administers it.

resource "aws_eks_cluster" "main" {
  name     = var.name
  version  = var.kubernetes_version
  role_arn = aws_iam_role.cluster.arn

  enabled_cluster_log_types = ["api", "audit", "authenticator", "controllerManager", "scheduler"]

  # EKS would install its own copies, which no file here describes.
  bootstrap_self_managed_addons = false

  vpc_config {
    subnet_ids              = [for subnet in aws_subnet.private : subnet.id]
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_allowed_cidrs) > 0
    public_access_cidrs     = length(var.api_allowed_cidrs) > 0 ? var.api_allowed_cidrs : null
  }

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = true
  }

  encryption_config {
    resources = ["secrets"]

    provider {
      key_arn = aws_kms_key.cluster.arn
    }
  }

  # Extended support costs six times as much an hour; at its end of support the cluster is updated instead.
  upgrade_policy {
    support_type = "STANDARD"
  }

  # Before the cluster they would be made too late, after it they would go too early.
  depends_on = [
    aws_cloudwatch_log_group.cluster,
    aws_iam_role_policy_attachment.cluster,
    aws_iam_role_policy.cluster_key,
  ]
}

# Made here, because EKS would make it without a retention and leave it behind.
resource "aws_cloudwatch_log_group" "cluster" {
  name              = "/aws/eks/${var.name}/cluster"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.cluster.arn
}

resource "aws_kms_key" "cluster" {
  description         = "${var.name}: secrets, logs and images of the cluster"
  enable_key_rotation = true

  # "*" in the policy of a key is the key itself; without the account's leave nobody could ever mend it.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "AccountDecidesByIam"
        Effect    = "Allow"
        Principal = { AWS = "${local.arn}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "LogsOfThisCluster"
        Effect    = "Allow"
        Principal = { Service = "logs.${var.region}.amazonaws.com" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = { ArnEquals = { "kms:EncryptionContext:aws:logs:arn" = [
          "${local.arn}:logs:${var.region}:${local.account}:log-group:/aws/eks/${var.name}/cluster",
          "${local.arn}:logs:${var.region}:${local.account}:log-group:/aws/vpc/${var.name}/refused",
        ] } }
      },
    ]
  })
}

resource "aws_kms_alias" "cluster" {
  name          = "alias/${var.name}-cluster"
  target_key_id = aws_kms_key.cluster.key_id
}

resource "aws_iam_role" "cluster" {
  name = "${var.name}-cluster"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "eks.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "${local.arn}:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_iam_role_policy" "cluster_key" {
  name = "encrypt-secrets"
  role = aws_iam_role.cluster.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["kms:Encrypt", "kms:Decrypt", "kms:ListGrants", "kms:DescribeKey"]
      Resource = aws_kms_key.cluster.arn
    }]
  })
}

locals {
  # Versions are EKS's default for kubernetes_version: they were tested together there.
  addons = {
    # Without enableNetworkPolicy, EKS takes the chart's NetworkPolicies and enforces none.
    vpc-cni    = { settings = { enableNetworkPolicy = "true" }, role_arn = aws_iam_role.service_account["vpc-cni"].arn }
    kube-proxy = { settings = {}, role_arn = null }
  }
}

# Nodes are not ready without them, so they come first.
resource "aws_eks_addon" "node" {
  for_each = local.addons

  cluster_name                = aws_eks_cluster.main.name
  addon_name                  = each.key
  configuration_values        = jsonencode(each.value.settings)
  service_account_role_arn    = each.value.role_arn
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  depends_on = [aws_iam_role_policy_attachment.vpc_cni]
}

# It is not healthy before a node runs it.
resource "aws_eks_addon" "dns" {
  cluster_name                = aws_eks_cluster.main.name
  addon_name                  = "coredns"
  resolve_conflicts_on_create = "OVERWRITE"
  resolve_conflicts_on_update = "OVERWRITE"

  depends_on = [aws_eks_node_group.system]
}

resource "aws_eks_access_entry" "administrator" {
  for_each = var.administrator_arns

  cluster_name  = aws_eks_cluster.main.name
  principal_arn = each.key
}

resource "aws_eks_access_policy_association" "administrator" {
  for_each = var.administrator_arns

  cluster_name  = aws_eks_cluster.main.name
  principal_arn = aws_eks_access_entry.administrator[each.key].principal_arn
  policy_arn    = "${local.arn}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"

  access_scope {
    type = "cluster"
  }
}
