//! Executes effects on log and state.
