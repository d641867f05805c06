"""What plugin authors test with: tiny models without downloads, image folders, a runner."""
