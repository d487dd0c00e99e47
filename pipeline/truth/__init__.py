"""The truth: where users keep it, which image it belongs to, and how good labels are against it."""
