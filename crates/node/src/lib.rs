//! Decides what a member does next: takes an input, yields effects.

pub mod requests;
