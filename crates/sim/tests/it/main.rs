//! The simulator's own tests: that its runs repeat, and the scenarios.

mod scenarios;
