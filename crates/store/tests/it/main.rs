//! The store, driven through entries as a member would, on a disk in memory.

mod fixtures;
mod fuzz;
mod history;
mod member;
mod model;
mod open;
mod replace;
mod scripts;
