"""All that speaks to, finds or runs PostgreSQL."""
