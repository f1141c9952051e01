# All settings, in the order of the files that use them. A value that cannot work is refused by name before anything is
# made; what has no default is what only you can know.

variable "region" {
  description = "AWS region. The default holds the public Sentinel-2 COGs: reads within a region pass no gateway that is paid by the GB."
  type        = string
  default     = "us-west-2"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is \"${var.region}\"; expected a region's code like us-west-2, not a zone or a city."
  }
}

variable "name" {
  description = "Name of the cluster, and the beginning of every other name."
  type        = string
  default     = "coseis"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name is \"${var.name}\"; expected 3 to 24 lower-case letters, digits and hyphens, a letter first: bucket and role names are made of it."
  }
}

variable "tags" {
  description = "Tags on everything that is made, beside project and cluster."
  type        = map(string)
  default     = {}
}

# network.tf

variable "vpc_cidr" {
  description = "IPv4 range of the VPC. Every pod takes an address of it."
  type        = string
  default     = "10.40.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr is \"${var.vpc_cidr}\"; expected an IPv4 range of /16 (AWS's largest) to /20: a smaller one runs out of addresses for pods."
  }
}

variable "zones" {
  description = "Letters of the availability zones to use, 2 to 4. More zones find more spot machines; workers exchange nothing, so zones cost no traffic. Not every region has a, b and c, and not every zone the GPUs: aws ec2 describe-instance-type-offerings tells."
  type        = set(string)
  default     = ["a", "b", "c"]

  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 4 && alltrue([for letter in var.zones : contains(["a", "b", "c", "d", "e", "f"], letter)])
    error_message = "zones is ${jsonencode(var.zones)}; expected 2 (the least that EKS takes) to 4 letters of a to f, like [\"a\", \"b\", \"c\"]."
  }
}

variable "egress" {
  description = "Way out of the private subnets: nat (one gateway), nat-per-zone (outlives a zone), or endpoints (no internet: AWS's services alone, for catalogs and imagery in buckets)."
  type        = string
  default     = "nat"

  validation {
    condition     = contains(["nat", "nat-per-zone", "endpoints"], var.egress)
    error_message = "egress is \"${var.egress}\"; expected nat, nat-per-zone or endpoints."
  }
}

# cluster.tf

variable "kubernetes_version" {
  description = "Kubernetes minor version of the cluster and its nodes; one in EKS's standard support."
  type        = string
  default     = "1.35"

  validation {
    condition     = can(regex("^1\\.(3[3-9]|[4-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version is \"${var.kubernetes_version}\"; expected a minor version from 1.33 on, without a patch number. EKS updates one minor version at a time."
  }
}

variable "api_allowed_cidrs" {
  description = "IPv4 ranges from which kubectl and helm may reach the cluster's API, e.g. [\"203.0.113.7/32\"]. Empty: only from inside the VPC."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_allowed_cidrs : can(cidrnetmask(cidr))])
    error_message = "api_allowed_cidrs is ${jsonencode(var.api_allowed_cidrs)}; expected IPv4 ranges like 203.0.113.7/32 (one address is /32)."
  }

  validation {
    condition     = alltrue([for cidr in var.api_allowed_cidrs : try(tonumber(split("/", cidr)[1]) >= 8, true)])
    error_message = "api_allowed_cidrs is ${jsonencode(var.api_allowed_cidrs)}, which opens the API to the whole internet; name the ranges of your office or VPN."
  }
}

variable "administrator_arns" {
  description = "IAM roles or users that administer the cluster, beside the one that creates it."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.administrator_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/.+$", arn))])
    error_message = "administrator_arns is ${jsonencode(var.administrator_arns)}; expected ARNs of IAM roles or users. Of an assumed role, name the role itself (iam, not sts)."
  }
}

variable "log_retention_days" {
  description = "Days that the logs of the control plane and of refused connections are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is ${var.log_retention_days}; CloudWatch keeps 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days, or 3 to 10 years."
  }
}

# nodes.tf

variable "system_instance_type" {
  description = "Type of the nodes for DNS, the autoscaler, and the scheduler and job pods of runs: one always runs, up to three more are started when it is full."
  type        = string
  default     = "m7i.large"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9]+$", var.system_instance_type)) && !can(regex("^([gp][0-9]|[a-z]+[0-9]+[a-z]*g[a-z]*\\.)", var.system_instance_type))
    error_message = "system_instance_type is \"${var.system_instance_type}\"; expected an x86 type without a GPU, like m7i.large."
  }
}

variable "cpu_nodes" {
  description = "Pool of CPU nodes: instance types (one size; one generation, or workers compute in different precisions), SPOT or ON_DEMAND, the most nodes at once, disk for images and scratch."
  type = object({
    instance_types = optional(list(string), ["m7i.2xlarge", "m7i-flex.2xlarge"])
    capacity_type  = optional(string, "SPOT")
    max_size       = optional(number, 16)
    disk_gib       = optional(number, 100)
  })
  default = {}

  validation {
    condition     = length(var.cpu_nodes.instance_types) > 0 && length(distinct([for type in var.cpu_nodes.instance_types : try(split(".", type)[1], "")])) == 1
    error_message = "cpu_nodes.instance_types is ${jsonencode(var.cpu_nodes.instance_types)}; expected types of one size, like m7i.2xlarge and m7i-flex.2xlarge: the autoscaler takes all of a pool to be like the first."
  }

  validation {
    condition     = alltrue([for type in var.cpu_nodes.instance_types : can(regex("^[a-z][a-z0-9-]*\\.[a-z0-9]+$", type)) && !can(regex("^([gp][0-9]|[a-z]+[0-9]+[a-z]*g[a-z]*\\.)", type))])
    error_message = "cpu_nodes.instance_types is ${jsonencode(var.cpu_nodes.instance_types)}; expected x86 types without a GPU, like m7i.2xlarge: the image is built for x86-64, and GPUs belong in gpu_nodes."
  }

  validation {
    condition     = contains(["SPOT", "ON_DEMAND"], var.cpu_nodes.capacity_type)
    error_message = "cpu_nodes.capacity_type is \"${var.cpu_nodes.capacity_type}\"; expected SPOT or ON_DEMAND."
  }

  validation {
    condition     = var.cpu_nodes.max_size >= 1 && var.cpu_nodes.max_size <= 450
    error_message = "cpu_nodes.max_size is ${var.cpu_nodes.max_size}; expected 1 to 450, EKS's limit."
  }

  validation {
    condition     = var.cpu_nodes.disk_gib >= 30
    error_message = "cpu_nodes.disk_gib is ${var.cpu_nodes.disk_gib}; expected 30 or more: image and scratch lie on it."
  }
}

variable "gpu_nodes" {
  description = "Pool of GPU nodes: instance type, GPUs in one, SPOT or ON_DEMAND, the most nodes at once, disk for images and scratch. One type, because a run refuses a worker whose GPU is another model. max_size 0 makes no such pool."
  type = object({
    instance_type = optional(string, "g6.2xlarge")
    gpus          = optional(number, 1)
    capacity_type = optional(string, "SPOT")
    max_size      = optional(number, 4)
    disk_gib      = optional(number, 120)
  })
  default = {}

  validation {
    condition     = can(regex("^(g[4-9](dn|e)?|gr[4-9]|p[4-9][a-z]*)\\.[a-z0-9]+$", var.gpu_nodes.instance_type))
    error_message = "gpu_nodes.instance_type is \"${var.gpu_nodes.instance_type}\"; expected an x86 type with NVIDIA GPUs, like g6.2xlarge or p5.4xlarge."
  }

  validation {
    condition     = contains([1, 2, 4, 8], var.gpu_nodes.gpus)
    error_message = "gpu_nodes.gpus is ${var.gpu_nodes.gpus}; expected 1, 2, 4 or 8, the number of GPUs in one node of the type."
  }

  validation {
    condition     = contains(["SPOT", "ON_DEMAND"], var.gpu_nodes.capacity_type)
    error_message = "gpu_nodes.capacity_type is \"${var.gpu_nodes.capacity_type}\"; expected SPOT or ON_DEMAND."
  }

  validation {
    condition     = var.gpu_nodes.max_size >= 0 && var.gpu_nodes.max_size <= 450
    error_message = "gpu_nodes.max_size is ${var.gpu_nodes.max_size}; expected 0 (no GPUs) to 450, EKS's limit."
  }

  validation {
    condition     = var.gpu_nodes.disk_gib >= 60
    error_message = "gpu_nodes.disk_gib is ${var.gpu_nodes.disk_gib}; expected 60 or more: the GPU image holds CUDA, and scratch lies beside it."
  }
}

# bucket.tf

variable "bucket_name" {
  description = "Name of the bucket for results; by default name, account and region, which nobody else has."
  type        = string
  default     = null

  validation {
    condition     = var.bucket_name == null || can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket_name))
    error_message = "bucket_name is \"${coalesce(var.bucket_name, "null")}\"; expected 3 to 63 lower-case letters, digits and hyphens (a dot breaks TLS)."
  }
}

variable "noncurrent_days" {
  description = "Days that overwritten and deleted objects can still be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days is ${var.noncurrent_days}; expected 1 or more."
  }
}

variable "destroy_results" {
  description = "Whether terraform destroy may delete a bucket that still holds results. Nothing brings them back."
  type        = bool
  default     = false
}

# access.tf

variable "namespace" {
  description = "Kubernetes namespace that the chart is installed in. The role of the job trusts no other."
  type        = string
  default     = "coseis"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is \"${var.namespace}\"; expected a DNS label: up to 63 lower-case letters, digits and hyphens. A pattern would trust more than one."
  }
}

variable "service_account" {
  description = "Service account of the chart (serviceAccount.name). The role of the job trusts no other."
  type        = string
  default     = "coseis"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.service_account))
    error_message = "service_account is \"${var.service_account}\"; expected a DNS label: up to 63 lower-case letters, digits and hyphens. A pattern would trust more than one."
  }
}

variable "input_buckets" {
  description = "Other buckets that the job may read, never write: catalogs, imagery, models. Public ones, too: a signed request needs leave on both sides."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for bucket in var.input_buckets : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", bucket))])
    error_message = "input_buckets is ${jsonencode(var.input_buckets)}; expected names of buckets, without s3:// and without a path."
  }
}

# budget.tf

variable "monthly_budget_usd" {
  description = "What the account may cost a month, US dollars. Past it, and when it is forecast, alarm_emails are written to; nothing is stopped."
  type        = number
  default     = 500

  validation {
    condition     = var.monthly_budget_usd >= 1
    error_message = "monthly_budget_usd is ${var.monthly_budget_usd}; expected 1 or more."
  }
}

variable "alarm_emails" {
  description = "Who is told when money runs out, 1 to 10 addresses."
  type        = set(string)

  validation {
    condition     = length(var.alarm_emails) >= 1 && length(var.alarm_emails) <= 10 && alltrue([for email in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", email))])
    error_message = "alarm_emails is ${jsonencode(var.alarm_emails)}; expected 1 to 10 e-mail addresses: an alarm that nobody hears is none."
  }
}
