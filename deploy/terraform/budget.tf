# The alarm on costs. It looks at the whole account: a budget by tag counts nothing until somebody activates the tag in
# the billing console, and an alarm that is silent for that reason is worse than one that hears too much. AWS knows
# costs hours late, so max_size of the pools is the limit, this the alarm.

resource "aws_budgets_budget" "monthly" {
  name         = "${var.name}-monthly"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"

  dynamic "notification" {
    for_each = {
      half-spent   = { type = "ACTUAL", percent = 50 }
      nearly-spent = { type = "ACTUAL", percent = 90 }
      will-exceed  = { type = "FORECASTED", percent = 100 }
    }

    content {
      notification_type          = notification.value.type
      threshold                  = notification.value.percent
      threshold_type             = "PERCENTAGE"
      comparison_operator        = "GREATER_THAN"
      subscriber_email_addresses = var.alarm_emails
    }
  }
}
