# Applies with a provider that makes everything up: what is made for which setting, and what the outputs print.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/made-up" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:us-west-2:123456789012:key/made-up" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:us-west-2:123456789012:log-group:made-up" }
  }

  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.us-west-2.amazonaws.com/coseis" }
  }

  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/made-up" }
  }

  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }

  mock_resource "aws_eks_cluster" {
    defaults = { identity = [{ oidc = [{ issuer = "https://oidc.eks.us-west-2.amazonaws.com/id/ABC" }] }] }
  }

  mock_resource "aws_eks_node_group" {
    defaults = { resources = [{ autoscaling_groups = [{ name = "made-up" }], remote_access_security_group_id = "" }] }
  }
}

variables {
  api_allowed_cidrs = ["203.0.113.7/32"]
  alarm_emails      = ["ops@example.org"]
}

run "values_for_the_charts" {
  assert {
    condition     = yamldecode(output.helm_values) == yamldecode(file("tests/helm_values.yaml"))
    error_message = "helm_values changed: ${output.helm_values}"
  }

  assert {
    condition     = yamldecode(output.autoscaler_values).rbac.serviceAccount.name == "cluster-autoscaler" && output.bucket_uri == "s3://coseis-123456789012-us-west-2"
    error_message = "autoscaler_values changed: ${output.autoscaler_values}"
  }
}

run "no_gpus" {
  variables {
    gpu_nodes = { max_size = 0 }
  }

  assert {
    condition = keys(aws_eks_node_group.pool) == ["cpu"] && yamldecode(output.helm_values).workers == {
      gpu          = false
      nodeSelector = { "coseis.io/pool" = "cpu" }
      tolerations  = [{ key = "coseis.io/pool", operator = "Equal", value = "cpu", effect = "NoSchedule" }]
    }
    error_message = "without GPU nodes, workers must go to the CPU pool: ${output.helm_values}"
  }
}

run "no_internet" {
  variables {
    egress = "endpoints"
  }

  assert {
    condition     = length(aws_nat_gateway.main) + length(aws_internet_gateway.main) + length(aws_subnet.public) + length(aws_route.private) == 0
    error_message = "there is still a way to the internet"
  }

  assert {
    condition     = contains(keys(aws_vpc_endpoint.interface), "sts") && contains(keys(aws_vpc_endpoint.interface), "ecr.dkr") && length(aws_vpc_endpoint.interface) == 7
    error_message = "nodes and jobs miss a service of AWS"
  }
}

run "a_gateway_in_each_zone" {
  variables {
    egress   = "nat-per-zone"
    zones    = ["a", "c"]
    vpc_cidr = "10.9.0.0/20"
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 2 && length(distinct([for route in values(aws_route.private) : route.nat_gateway_id])) == 2
    error_message = "zones share a gateway, or one has none"
  }

  assert {
    condition     = [for subnet in values(aws_subnet.private) : subnet.cidr_block] == ["10.9.0.0/23", "10.9.4.0/23"] && [for subnet in values(aws_subnet.public) : subnet.cidr_block] == ["10.9.15.240/28", "10.9.15.208/28"]
    error_message = "the ranges of the subnets changed"
  }
}

run "administrators" {
  variables {
    administrator_arns = ["arn:aws:iam::123456789012:role/operators"]
  }

  assert {
    condition     = aws_eks_access_policy_association.administrator["arn:aws:iam::123456789012:role/operators"].policy_arn == "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
    error_message = "whoever is named does not administer the cluster"
  }
}
