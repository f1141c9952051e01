# Plans with the real provider, which needs no account for that: keys are made up, and what would be read or computed
# in AWS is given here. So the IAM JSON below is what AWS would get, letter by letter.

provider "aws" {
  region                      = "us-west-2"
  access_key                  = "made-up"
  secret_key                  = "made-up"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
}

variables {
  api_allowed_cidrs = ["203.0.113.7/32"]
  alarm_emails      = ["ops@example.org"]
}

override_data {
  target = data.aws_caller_identity.current
  values = { account_id = "123456789012" }
}

override_resource {
  target          = aws_kms_key.results
  override_during = plan
  values          = { arn = "arn:aws:kms:us-west-2:123456789012:key/results" }
}

override_resource {
  target          = aws_kms_key.cluster
  override_during = plan
  values          = { arn = "arn:aws:kms:us-west-2:123456789012:key/cluster" }
}

override_resource {
  target          = aws_eks_cluster.main
  override_during = plan
  values          = { identity = [{ oidc = [{ issuer = "https://oidc.eks.us-west-2.amazonaws.com/id/ABC" }] }] }
}

override_resource {
  target          = aws_iam_openid_connect_provider.cluster
  override_during = plan
  values          = { arn = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-west-2.amazonaws.com/id/ABC" }
}

# One plan for all that is asked of the defaults: each takes two seconds.
run "as_it_comes" {
  command = plan

  assert {
    condition = jsondecode(aws_iam_role_policy.job.policy) == {
      Version = "2012-10-17"
      Statement = [
        {
          Sid      = "ListResults"
          Effect   = "Allow"
          Action   = ["s3:ListBucket", "s3:GetBucketLocation"]
          Resource = "arn:aws:s3:::coseis-123456789012-us-west-2"
        },
        {
          Sid      = "ReadAndWriteResults"
          Effect   = "Allow"
          Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
          Resource = "arn:aws:s3:::coseis-123456789012-us-west-2/*"
        },
        {
          Sid       = "EncryptResultsThroughS3"
          Effect    = "Allow"
          Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
          Resource  = "arn:aws:kms:us-west-2:123456789012:key/results"
          Condition = { StringEquals = { "kms:ViaService" = "s3.us-west-2.amazonaws.com" } }
        },
      ]
    }
    error_message = "the job's policy changed: ${aws_iam_role_policy.job.policy}"
  }

  assert {
    condition = jsondecode(aws_iam_role.service_account["job"].assume_role_policy) == {
      Version = "2012-10-17"
      Statement = [{
        Effect    = "Allow"
        Action    = "sts:AssumeRoleWithWebIdentity"
        Principal = { Federated = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-west-2.amazonaws.com/id/ABC" }
        Condition = { StringEquals = {
          "oidc.eks.us-west-2.amazonaws.com/id/ABC:aud" = "sts.amazonaws.com"
          "oidc.eks.us-west-2.amazonaws.com/id/ABC:sub" = "system:serviceaccount:coseis:coseis"
        } }
      }]
    }
    error_message = "the job's role trusts somebody else: ${aws_iam_role.service_account["job"].assume_role_policy}"
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.autoscaler.policy).Statement : (
        statement.Sid == "ScaleThisCluster"
        ? jsonencode(statement.Condition) == jsonencode({ StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/coseis" = "owned" } })
        : alltrue([for action in flatten([statement.Action]) : can(regex(":(Describe|Get)", action))])
      )
    ])
    error_message = "the autoscaler may change more than this cluster: ${aws_iam_role_policy.autoscaler.policy}"
  }

  assert {
    condition = jsondecode(aws_kms_key.results.policy).Statement == [{
      Sid       = "AccountDecidesByIam"
      Effect    = "Allow"
      Action    = "kms:*"
      Resource  = "*"
      Principal = { AWS = "arn:aws:iam::123456789012:root" }
    }]
    error_message = "somebody else has leave on the key of the results: ${aws_kms_key.results.policy}"
  }

  assert {
    condition = [for statement in jsondecode(aws_kms_key.cluster.policy).Statement : statement.Condition if statement.Sid == "LogsOfThisCluster"] == [{
      ArnEquals = { "kms:EncryptionContext:aws:logs:arn" = [
        "arn:aws:logs:us-west-2:123456789012:log-group:/aws/eks/coseis/cluster",
        "arn:aws:logs:us-west-2:123456789012:log-group:/aws/vpc/coseis/refused",
      ] }
    }]
    error_message = "logs of others may use the cluster's key: ${aws_kms_key.cluster.policy}"
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(aws_s3_bucket_policy.results.policy).Statement :
      statement.Effect == "Deny" && statement.Action == "s3:*" && length(statement.Resource) == 2
    ]) && jsondecode(aws_s3_bucket_policy.results.policy).Statement[0].Condition == { Bool = { "aws:SecureTransport" = "false" } }
    error_message = "the bucket's policy changed: ${aws_s3_bucket_policy.results.policy}"
  }

  assert {
    condition = (
      one(aws_s3_bucket_versioning.results.versioning_configuration).status == "Enabled"
      && one(one(aws_s3_bucket_server_side_encryption_configuration.results.rule).apply_server_side_encryption_by_default).kms_master_key_id == aws_kms_key.results.arn
      && aws_s3_bucket_public_access_block.results.block_public_acls
      && aws_s3_bucket_public_access_block.results.block_public_policy
      && aws_s3_bucket_public_access_block.results.ignore_public_acls
      && aws_s3_bucket_public_access_block.results.restrict_public_buckets
      && !aws_s3_bucket.results.force_destroy
    )
    error_message = "the bucket is not versioned, encrypted with its key, closed to the public and safe from destroy"
  }

  assert {
    condition = (
      aws_s3_bucket_lifecycle_configuration.results.rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 7
      && aws_s3_bucket_lifecycle_configuration.results.rule[1].noncurrent_version_expiration[0].noncurrent_days == 30
    )
    error_message = "uploads that were cut off or old versions stay, and are paid, for ever"
  }

  assert {
    condition = [
      for statement in jsondecode(aws_vpc_endpoint.s3.policy).Statement : statement.Resource
      if anytrue([for action in flatten([statement.Action]) : can(regex("Put|Delete|Upload", action))])
    ] == ["arn:aws:s3:::coseis-123456789012-us-west-2/*"]
    error_message = "results could be carried to another bucket: ${aws_vpc_endpoint.s3.policy}"
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 1 && length(aws_vpc_endpoint.interface) == 0 && length(aws_route.private) == 3
    error_message = "the default is one NAT gateway, for all zones"
  }

  assert {
    condition = keys(aws_launch_template.node) == ["cpu", "gpu", "system"] && alltrue([
      for template in values(aws_launch_template.node) :
      template.metadata_options[0].http_tokens == "required"
      && template.metadata_options[0].http_put_response_hop_limit == 1
      && alltrue([for disk in template.block_device_mappings : disk.ebs[0].encrypted == "true"])
    ])
    error_message = "a node answers IMDSv1, or answers pods, or has a disk that is not encrypted"
  }

  assert {
    condition = toset([for attachment in values(aws_iam_role_policy_attachment.node) : attachment.policy_arn]) == toset([
      "arn:aws:iam::aws:policy/AmazonEKSWorkerNodePolicy", "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly",
    ])
    error_message = "the role of the nodes may do more than join and pull"
  }

  assert {
    condition = alltrue([
      for pool in values(aws_eks_node_group.pool) :
      pool.scaling_config[0].min_size == 0 && pool.scaling_config[0].desired_size == 0 && pool.capacity_type == "SPOT"
    ]) && aws_eks_node_group.system.capacity_type == "ON_DEMAND" && aws_eks_node_group.pool["gpu"].ami_type == "BOTTLEROCKET_x86_64_NVIDIA"
    error_message = "an idle pool keeps machines, or the machine that starts the others can be taken away"
  }

  assert {
    condition = { for tag in values(aws_autoscaling_group_tag.pool) : tag.tag[0].key => tag.tag[0].value... } == {
      "k8s.io/cluster-autoscaler/node-template/label/coseis.io/pool"                = ["cpu", "gpu"]
      "k8s.io/cluster-autoscaler/node-template/label/k8s.amazonaws.com/accelerator" = ["nvidia"]
      "k8s.io/cluster-autoscaler/node-template/label/nvidia.com/gpu.present"        = ["true"]
      "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"         = ["85Gi", "102Gi"]
      "k8s.io/cluster-autoscaler/node-template/resources/nvidia.com/gpu"            = ["1"]
      "k8s.io/cluster-autoscaler/node-template/taint/coseis.io/pool"                = ["cpu:NoSchedule", "gpu:NoSchedule"]
    }
    error_message = "the autoscaler cannot tell what an empty pool would offer"
  }

  assert {
    condition     = one(aws_eks_node_group.pool["gpu"].taint).key == "coseis.io/pool" && aws_eks_node_group.pool["gpu"].labels["coseis.io/pool"] == "gpu"
    error_message = "the label and the taint of a pool differ from what the autoscaler is told"
  }

  assert {
    condition     = jsondecode(aws_eks_addon.node["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "EKS would take the chart's NetworkPolicies and enforce none"
  }

  assert {
    condition = aws_budgets_budget.monthly.limit_amount == "500" && toset([
      for notice in aws_budgets_budget.monthly.notification : "${notice.notification_type} ${notice.threshold}"
    ]) == toset(["ACTUAL 50", "ACTUAL 90", "FORECASTED 100"])
    error_message = "the alarm changed"
  }

  assert {
    condition = (
      aws_eks_cluster.main.encryption_config[0].resources == toset(["secrets"])
      && length(aws_eks_cluster.main.enabled_cluster_log_types) == 5
      && aws_eks_cluster.main.upgrade_policy[0].support_type == "STANDARD"
    )
    error_message = "secrets are not encrypted, logs are missing, or extended support is paid"
  }
}

run "as_you_say" {
  command = plan

  variables {
    api_allowed_cidrs = []
    input_buckets     = ["sentinel-cogs"]
    namespace         = "maps"
    service_account   = "mapper"
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.job.policy).Statement : statement if statement.Sid == "Readsentinelcogs"] == [{
      Sid      = "Readsentinelcogs"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
      Resource = ["arn:aws:s3:::sentinel-cogs", "arn:aws:s3:::sentinel-cogs/*"]
    }]
    error_message = "leave on other buckets changed: ${aws_iam_role_policy.job.policy}"
  }

  assert {
    condition     = strcontains(aws_iam_role.service_account["job"].assume_role_policy, "system:serviceaccount:maps:mapper")
    error_message = "the role does not trust the service account that was named"
  }

  assert {
    condition     = aws_eks_cluster.main.vpc_config[0].endpoint_private_access && !aws_eks_cluster.main.vpc_config[0].endpoint_public_access
    error_message = "an empty list of ranges opened the API"
  }
}
