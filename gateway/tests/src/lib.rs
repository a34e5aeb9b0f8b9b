//! Whole-process tests, one file per promise.
