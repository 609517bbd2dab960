//! Checks every backend must pass.
