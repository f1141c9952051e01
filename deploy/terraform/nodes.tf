# Nodes: a small group that always runs and that nobody takes away, for DNS, the autoscaler, Dask's scheduler and the
# job's own pod; a CPU and a GPU pool for workers, which start from zero and go back to it.
#
# Bottlerocket, because its root is read-only, nobody logs in, and its NVIDIA image brings driver and device plugin: a
# GPU node needs nothing to be installed. The autoscaler reads what an empty pool would offer from tags of its group, and
# EKS puts no tag of a node group there, so they are written here. Karpenter would do without the groups, but brings a
# controller with leave to start any machine (decision 0018).

locals {
  # Which pods may go to a pool: the chart selects by this label and tolerates this taint (outputs.tf prints both).
  pool_key = "coseis.io/pool"

  pools = merge(
    {
      cpu = {
        types     = var.cpu_nodes.instance_types
        ami       = "BOTTLEROCKET_x86_64"
        capacity  = var.cpu_nodes.capacity_type
        max_size  = var.cpu_nodes.max_size
        disk_gib  = var.cpu_nodes.disk_gib
        labels    = {}
        resources = {}
      }
    },
    var.gpu_nodes.max_size == 0 ? {} : {
      gpu = {
        types    = [var.gpu_nodes.instance_type]
        ami      = "BOTTLEROCKET_x86_64_NVIDIA"
        capacity = var.gpu_nodes.capacity_type
        max_size = var.gpu_nodes.max_size
        disk_gib = var.gpu_nodes.disk_gib
        # By the first label the autoscaler waits for the GPU of a new node instead of starting a second one; by the
        # second the chart finds GPUs, on this cluster as on those where NVIDIA's operator sets it.
        labels    = { "k8s.amazonaws.com/accelerator" = "nvidia", "nvidia.com/gpu.present" = "true" }
        resources = { "nvidia.com/gpu" = tostring(var.gpu_nodes.gpus) }
      }
    },
  )

  pool_labels = { for pool, spec in local.pools : pool => merge({ (local.pool_key) = pool }, spec.labels) }

  # What a node of a pool would have. Of its disk the kubelet leaves pods a little more than 0.85.
  templates = { for pool, spec in local.pools : pool => merge(
    { for key, value in local.pool_labels[pool] : "label/${key}" => value },
    { for key, value in spec.resources : "resources/${key}" => value },
    {
      "resources/ephemeral-storage" = "${floor(0.85 * spec.disk_gib)}Gi"
      "taint/${local.pool_key}"     = "${pool}:NoSchedule"
    },
  ) }

  autoscaler_tags = merge([
    for pool, template in local.templates : { for key, value in template : "${pool}/${key}" => { pool = pool, key = key } }
  ]...)
}

# Where pods may run and what every node has: no instance credentials for pods, encrypted disks.
resource "aws_launch_template" "node" {
  for_each = merge({ system = 60 }, { for pool, spec in local.pools : pool => spec.disk_gib })

  name                   = "${var.name}-${each.key}"
  update_default_version = true

  # IMDSv2, and one hop: an answer reaches the node, but no pod behind it. What a pod may do comes from its service
  # account alone.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # The system's disk as it comes, but encrypted: AWS's own key, because nothing of value outlives a node.
  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      encrypted             = "true"
      delete_on_termination = "true"
    }
  }

  # Bottlerocket's second disk holds images and scratch.
  block_device_mappings {
    device_name = "/dev/xvdb"

    ebs {
      volume_size           = each.value
      volume_type           = "gp3"
      encrypted             = "true"
      delete_on_termination = "true"
    }
  }

  # Instances and disks get no default tags through a group, and the bill could not tell whose they are.
  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume"])

    content {
      resource_type = tag_specifications.key
      tags          = merge({ project = "coseis", cluster = var.name, Name = "${var.name}-${each.key}" }, var.tags)
    }
  }
}

resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = "system"
  version         = aws_eks_cluster.main.version
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  ami_type        = "BOTTLEROCKET_x86_64"
  capacity_type   = "ON_DEMAND"
  instance_types  = [var.system_instance_type]
  labels          = { (local.pool_key) = "system" }

  launch_template {
    id      = aws_launch_template.node["system"].id
    version = aws_launch_template.node["system"].latest_version
  }

  scaling_config {
    min_size     = 1
    desired_size = 1
    max_size     = 4 # schedulers and jobs of several runs, or the new node of an update
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_eks_addon.node, aws_iam_role_policy_attachment.node, aws_route.private, aws_vpc_endpoint.interface]
}

resource "aws_eks_node_group" "pool" {
  for_each = local.pools

  cluster_name    = aws_eks_cluster.main.name
  node_group_name = each.key
  version         = aws_eks_cluster.main.version
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.private : subnet.id]
  ami_type        = each.value.ami
  capacity_type   = each.value.capacity
  instance_types  = each.value.types
  labels          = local.pool_labels[each.key]

  # Pods that say nothing of the pool stay on the system nodes, or no pool would ever be empty again.
  taint {
    key    = local.pool_key
    value  = each.key
    effect = "NO_SCHEDULE"
  }

  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }

  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = each.value.max_size
  }

  # The autoscaler moves it while jobs run; an apply in between must not send their nodes away.
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }

  depends_on = [aws_eks_addon.node, aws_iam_role_policy_attachment.node, aws_route.private, aws_vpc_endpoint.interface]
}

resource "aws_autoscaling_group_tag" "pool" {
  for_each = local.autoscaler_tags

  autoscaling_group_name = aws_eks_node_group.pool[each.value.pool].resources[0].autoscaling_groups[0].name

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/${each.value.key}"
    value               = local.templates[each.value.pool][each.value.key]
    propagate_at_launch = false
  }
}

resource "aws_iam_role" "node" {
  name = "${var.name}-node"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

# To join the cluster and to pull images. Pod networking has a role of its own (access.tf).
resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node.name
  policy_arn = "${local.arn}:iam::aws:policy/${each.key}"
}
