# The bucket for results and its key. All state of a run lies here, so it is what must survive: versions are kept for
# noncurrent_days, and terraform destroy refuses a bucket that is not empty.

locals {
  bucket     = coalesce(var.bucket_name, "${var.name}-${local.account}-${var.region}")
  bucket_arn = "${local.arn}:s3:::${local.bucket}"
}

resource "aws_s3_bucket" "results" {
  #checkov:skip=CKV_AWS_18:access logs need a second bucket; who may read is one role and the administrators
  #checkov:skip=CKV_AWS_144:results can be computed again; a copy in another region costs more than that
  #checkov:skip=CKV2_AWS_62:nothing waits for new objects; a run's end is its run.json
  bucket        = local.bucket
  force_destroy = var.destroy_results
}

resource "aws_s3_bucket_versioning" "results" {
  bucket = aws_s3_bucket.results.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "results" {
  bucket = aws_s3_bucket.results.id

  rule {
    # One data key a while instead of one call of KMS an object: a run writes thousands of them.
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.results.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "results" {
  bucket = aws_s3_bucket.results.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "results" {
  bucket = aws_s3_bucket.results.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "results" {
  bucket = aws_s3_bucket.results.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "Tls12OrNewer"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
    ]
  })

  # S3 refuses both at once.
  depends_on = [aws_s3_bucket_public_access_block.results]
}

resource "aws_s3_bucket_lifecycle_configuration" "results" {
  bucket = aws_s3_bucket.results.id

  # Parts of an upload whose worker was taken away are invisible, and paid for ever.
  rule {
    id     = "abort-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "expire-old-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  # The rule on versions means something only once there are versions.
  depends_on = [aws_s3_bucket_versioning.results]
}

resource "aws_kms_key" "results" {
  description         = "${var.name}: results"
  enable_key_rotation = true

  # "*" in the policy of a key is the key itself; without the account's leave nobody could ever mend it.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AccountDecidesByIam"
      Effect    = "Allow"
      Principal = { AWS = "${local.arn}:iam::${local.account}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

resource "aws_kms_alias" "results" {
  name          = "alias/${var.name}-results"
  target_key_id = aws_kms_key.results.key_id
}
