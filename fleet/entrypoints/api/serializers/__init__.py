"""Bodies and answers. Answers render records as they are; bodies validate types and sizes, services validate meaning."""
