//! Golden tests of every format.
