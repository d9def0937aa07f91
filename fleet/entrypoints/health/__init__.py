"""Health of the web process, for load balancers and the supervisor."""
