# Which Terraform and provider: pinned, because what is tested is what is run. Modules of others are not used: every
# resource that is made, and so every permission, is in this folder.

terraform {
  # 1.11 has override_during, by which the tests see real IAM JSON without an account.
  required_version = "~> 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ project = "coseis", cluster = var.name }, var.tags)
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  arn       = "arn:${local.partition}"
}
