//! Deadlines, retries, budgets, overload.
