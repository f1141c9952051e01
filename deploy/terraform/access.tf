# What pods may do, by service account (IRSA): a role trusts one service account of one namespace, and no pod has the
# node's credentials. IRSA and not Pod Identity, whose agent answers on a link-local address: the chart keeps pods
# away from all of those (decision 0018).

locals {
  issuer = trimprefix(aws_eks_cluster.main.identity[0].oidc[0].issuer, "https://")

  service_accounts = {
    job        = { namespace = var.namespace, name = var.service_account }
    autoscaler = { namespace = "kube-system", name = "cluster-autoscaler" }
    vpc-cni    = { namespace = "kube-system", name = "aws-node" }
  }
}

resource "aws_iam_openid_connect_provider" "cluster" {
  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "service_account" {
  for_each = local.service_accounts

  name = "${var.name}-${each.key}"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.cluster.arn }
      Condition = { StringEquals = {
        "${local.issuer}:sub" = "system:serviceaccount:${each.value.namespace}:${each.value.name}"
        "${local.issuer}:aud" = "sts.amazonaws.com"
      } }
    }]
  })
}

resource "aws_iam_role_policy" "job" {
  name = "results"
  role = aws_iam_role.service_account["job"].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "ListResults"
          Effect   = "Allow"
          Action   = ["s3:ListBucket", "s3:GetBucketLocation"]
          Resource = local.bucket_arn
        },
        # Old versions are not deleted by a job, so what it overwrites by mistake can be brought back.
        {
          Sid    = "ReadAndWriteResults"
          Effect = "Allow"
          Action = [
            "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
          ]
          Resource = "${local.bucket_arn}/*"
        },
        {
          Sid       = "EncryptResultsThroughS3"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = aws_kms_key.results.arn
          Condition = { StringEquals = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" } }
        },
      ],
      [for bucket in var.input_buckets : {
        Sid      = "Read${join("", regexall("[a-z0-9]", bucket))}"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
        Resource = ["${local.arn}:s3:::${bucket}", "${local.arn}:s3:::${bucket}/*"]
      }],
    )
  })
}

resource "aws_iam_role_policy" "autoscaler" {
  name = "scale"
  role = aws_iam_role.service_account["autoscaler"].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      # Describe actions of these services know no resource.
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
          "autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities",
          "autoscaling:DescribeTags",
          "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
          "ec2:GetInstanceTypesFromInstanceRequirements",
        ]
        Resource = "*"
      },
      {
        Sid      = "LookAtOurNodeGroups"
        Effect   = "Allow"
        Action   = "eks:DescribeNodegroup"
        Resource = "${local.arn}:eks:${var.region}:${local.account}:nodegroup/${var.name}/*"
      },
      # EKS puts this tag on the groups of this cluster.
      {
        Sid       = "ScaleThisCluster"
        Effect    = "Allow"
        Action    = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}" = "owned" } }
      },
    ]
  })
}

resource "aws_iam_role_policy_attachment" "vpc_cni" {
  role       = aws_iam_role.service_account["vpc-cni"].name
  policy_arn = "${local.arn}:iam::aws:policy/AmazonEKS_CNI_Policy"
}
