//! Applies committed requests to the replicated state, deterministically.
