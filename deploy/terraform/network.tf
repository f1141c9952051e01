# VPC with private subnets for all nodes, and the ways out of it.
#
# What a run moves is imagery in and results out, nearly all of it S3 of one region: that goes through the gateway
# endpoint, which costs nothing and which container image layers use, too. The rest (STAC searches, imagery elsewhere)
# needs the internet, so one NAT gateway, the only part here that is paid by the hour and by the GB, is the default.

locals {
  # By letter, not the first three of those that AWS lists today: a zone that is added would move the subnets.
  zones     = { for letter in var.zones : "${var.region}${letter}" => index(["a", "b", "c", "d", "e", "f"], letter) }
  nat_zones = { nat = slice(keys(local.zones), 0, 1), nat-per-zone = keys(local.zones), endpoints = [] }[var.egress]

  # An eighth of the range for each zone (of a /16: 8,187 addresses); public subnets are cut from the end.
  private_cidrs = { for zone, index in local.zones : zone => cidrsubnet(var.vpc_cidr, 3, index) }
  public_cidrs  = { for zone, index in local.zones : zone => cidrsubnet(var.vpc_cidr, 8, 255 - index) }

  # What nodes, DNS, the autoscaler and the job's identity call when there is no internet.
  interface_endpoints = toset([
    for service in ["autoscaling", "ec2", "ecr.api", "ecr.dkr", "eks", "logs", "sts"] : service if var.egress == "endpoints"
  ])
}

resource "aws_vpc" "main" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = var.name }
}

# Empty: whatever forgets to name its security group reaches nothing.
resource "aws_default_security_group" "none" {
  vpc_id = aws_vpc.main.id
}

resource "aws_subnet" "private" {
  for_each = local.private_cidrs

  vpc_id            = aws_vpc.main.id
  availability_zone = each.key
  cidr_block        = each.value

  tags = { Name = "${var.name}-private-${each.key}", "kubernetes.io/role/internal-elb" = "1" }
}

resource "aws_route_table" "private" {
  for_each = local.private_cidrs

  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-private-${each.key}" }
}

resource "aws_route_table_association" "private" {
  for_each = local.private_cidrs

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

# The public side holds NAT gateways and nothing else.
resource "aws_internet_gateway" "main" {
  count = length(local.nat_zones) > 0 ? 1 : 0

  vpc_id = aws_vpc.main.id

  tags = { Name = var.name }
}

resource "aws_subnet" "public" {
  for_each = toset(local.nat_zones)

  vpc_id                  = aws_vpc.main.id
  availability_zone       = each.key
  cidr_block              = local.public_cidrs[each.key]
  map_public_ip_on_launch = false

  tags = { Name = "${var.name}-public-${each.key}" }
}

resource "aws_route_table" "public" {
  count = length(local.nat_zones) > 0 ? 1 : 0

  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-public" }
}

resource "aws_route" "public" {
  count = length(local.nat_zones) > 0 ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main[0].id
}

resource "aws_route_table_association" "public" {
  for_each = toset(local.nat_zones)

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)

  domain = "vpc"

  tags = { Name = "${var.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "main" {
  for_each = toset(local.nat_zones)

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags = { Name = "${var.name}-${each.key}" }

  depends_on = [aws_route.public]
}

resource "aws_route" "private" {
  for_each = var.egress == "endpoints" ? {} : local.private_cidrs

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.main[contains(local.nat_zones, each.key) ? each.key : local.nat_zones[0]].id
}

# Anything may be read through the endpoint (imagery and image layers lie in buckets of others), but written only to
# our bucket: whoever takes over a pod cannot carry results to a bucket of his own in this region.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.main.id
  vpc_endpoint_type = "Gateway"
  service_name      = "com.amazonaws.${var.region}.s3"
  route_table_ids   = [for table in aws_route_table.private : table.id]

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "ReadAnywhere"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
        Resource  = "*"
      },
      {
        Sid       = "WriteHere"
        Effect    = "Allow"
        Principal = "*"
        Action    = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        Resource  = "${local.bucket_arn}/*"
      },
    ]
  })

  tags = { Name = "${var.name}-s3" }
}

resource "aws_security_group" "endpoints" {
  count = length(local.interface_endpoints) > 0 ? 1 : 0

  name        = "${var.name}-endpoints"
  description = "HTTPS from inside the VPC to the endpoints of AWS's services"
  vpc_id      = aws_vpc.main.id

  ingress {
    description = "HTTPS from inside the VPC"
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = [var.vpc_cidr]
  }
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_endpoints

  vpc_id              = aws_vpc.main.id
  vpc_endpoint_type   = "Interface"
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  subnet_ids          = [for subnet in aws_subnet.private : subnet.id]
  security_group_ids  = [aws_security_group.endpoints[0].id]
  private_dns_enabled = true

  tags = { Name = "${var.name}-${each.key}" }
}

# Refused connections only: they show a probe or a wrong rule, and cost a thousandth of logging all.
resource "aws_flow_log" "refused" {
  vpc_id          = aws_vpc.main.id
  traffic_type    = "REJECT"
  log_destination = aws_cloudwatch_log_group.refused.arn
  iam_role_arn    = aws_iam_role.flow_log.arn
}

resource "aws_cloudwatch_log_group" "refused" {
  name              = "/aws/vpc/${var.name}/refused"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.cluster.arn
}

resource "aws_iam_role" "flow_log" {
  name = "${var.name}-flow-log"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "flow_log" {
  name = "write"
  role = aws_iam_role.flow_log.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${local.arn}:logs:${var.region}:${local.account}:log-group:/aws/vpc/${var.name}/refused:*"
    }]
  })
}
