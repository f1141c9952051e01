# Where the image is pushed to and pulled from: nodes without internet reach no other registry, and its layers come
# through the S3 endpoint, past the NAT gateway that would be paid by the GB.

resource "aws_ecr_repository" "coseis" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE" # the run's report names the code by version: a tag must not change under it
  force_delete         = true        # images are built again from the source

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.cluster.arn
  }

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "coseis" {
  repository = aws_ecr_repository.coseis.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep ten images: some GB each"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}
