//! Endpoints, health, balancing, pools and their limits.
