"""What is decided and told before the first step: the plan, and settings that fit into memory."""
