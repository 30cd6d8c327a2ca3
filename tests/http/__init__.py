"""What every HTTP surface shares: access rules, bodies, request slots, problems, ranges, security headers."""
